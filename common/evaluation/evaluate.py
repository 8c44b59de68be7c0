"""Evaluates a method by name of metric, whatever its family.

  evaluation = evaluate(method, params, data, config.evaluation, key)
  evaluation.measures['agreement']  # Measure(value=0.957, standard_error=0.0066, note='...')

A metric that does not apply (no likelihood, no classes) gives an empty `Measure` that says why.
"""

import dataclasses
import functools
import math
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int, Integer, Key, UInt8

from common.config import ConfigError, pick
from common.data.pipeline import Data, evaluation_batches
from common.data.sources import Source
from common.data.spec import DataSpec
from common.domains import forecasts, showing
from common.evaluation import classifiers, crps, frechet
from common.evaluation.agreement import agreement
from common.evaluation.features import extractor
from common.evaluation.likelihood import bits_per_dim
from common.evaluation.measures import Evaluation, Measure
from common.method import Method, PyTree, Request

# Calls of the sampler that are timed, after the one that compiles it.
TIMED_CALLS = 3
# Images of each class (or a multiple of ten where there are none) that go into a picture.
PICTURE_ROWS = 8
# Real examples of a split that distances and classifiers see.
REAL_EXAMPLES = 60_000


NOTHING = np.zeros((0, 1, 1, 1), np.uint8)  # no images
NO_TOKENS = np.zeros((0, 1), np.int32)
NO_SERIES = Measure(None, note='a score of forecasts of time series')


class Drawn(NamedTuple):
  """Samples, the classes asked for, evaluations per sample, and seconds of each timed call."""

  x: Integer[np.ndarray, 'n *shape']
  labels: Int[np.ndarray, 'n'] | None
  evaluations: int
  seconds: tuple[float, ...]


@dataclasses.dataclass(frozen=True)
class Subject:
  """What is evaluated; samples are drawn once, when the first metric asks for them.

  Attributes:
    method, params: the model.
    data: real data to hold it against.
    settings: the `evaluation` section of a config.
    key: of all randomness.
    options: sampler settings that replace those of the config.
  """

  method: Method
  params: PyTree
  data: Data
  settings: Mapping[str, Any]
  key: Key[Array, '']
  options: Mapping[str, Any]

  @functools.cached_property
  def drawn(self) -> Drawn:
    """`settings.num_samples` samples, their classes in turn."""
    num, batch = self.settings['num_samples'], self.settings['batch_size']
    batch = min(batch, num)
    classes = self.data.spec.num_classes if self.method.labelled else 0
    calls = -(-num // batch)
    kept, seconds, evaluations = [], [], 0
    for call in range(max(calls, 1 + TIMED_CALLS)):
      request = self._request(call * batch + np.arange(batch))
      start = time.perf_counter()
      samples = self.method.sample(self.params, jax.random.fold_in(self.key, call), request)
      x = np.asarray(samples.x)
      seconds.append(time.perf_counter() - start)
      if call < calls:
        kept.append(x)
        evaluations = int(samples.evaluations)
    labels = np.arange(num) % classes if classes else None
    return Drawn(np.concatenate(kept)[:num], labels, evaluations, tuple(seconds[1:]))

  def _request(self, places: Int[np.ndarray, 'batch']) -> Request:
    """A request for the samples with these numbers: classes, or windows to forecast, in turn."""
    spec, source = self.data.spec, self.data.splits[self.settings['split']]
    if spec.domain == 'series':
      return forecasts.request(spec, source.gather(places % len(source)), self.options)
    classes = spec.num_classes if self.method.labelled else 0
    label = jnp.asarray(places % classes) if classes else None
    return showing.request(spec, len(places), label, self.options)

  @functools.cached_property
  def forecasts(self) -> forecasts.Forecasts:
    """`settings.num_samples` draws of every window of the split."""
    source = self.data.splits[self.settings['split']]
    return forecasts.forecast(
      self.method,
      self.params,
      self.key,
      self.data.spec,
      source,
      windows=np.arange(len(source)),
      draws=self.settings['num_samples'],
      rows=self.settings['batch_size'],
      options=self.options,
    )

  @functools.cached_property
  def scores(self) -> crps.Scores | None:
    """Of these forecasts; None where the data are no time series."""
    series = self.data.spec.series
    return series and crps.score(self.forecasts, series.season, self.settings['split'])

  @functools.cached_property
  def images(self) -> tuple[UInt8[np.ndarray, 'n height width channels'], int]:
    """The samples as they look, and the levels of that."""
    return showing.as_images(self.data.spec, self.drawn.x)

  @functools.cached_property
  def real(self) -> classifiers.LabelledImages:
    """The training split, with the split that a classifier's own accuracy is measured on."""
    spec = self.data.spec
    train, test = (self.data.splits[name] for name in ('train', self.settings['split']))
    (x, label), (test_x, test_label) = (_images(part, spec.num_classes) for part in (train, test))
    (x, levels), (test_x, _) = (showing.as_images(spec, images) for images in (x, test_x))
    return classifiers.labelled_images(x, label, test_x, test_label, levels)


def evaluate(
  method: Method,
  params: PyTree,
  data: Data,
  settings: Mapping[str, Any],
  key: Key[Array, ''],
  metrics: Iterable[str] | None = None,
  options: Mapping[str, Any] | None = None,
) -> Evaluation:
  """Measures a model.

  Args:
    method: the model's functions.
    params: its parameters (as a rule, their moving average).
    data: real data; distances and classifiers take its training split, likelihoods
      `settings.split`.
    settings: the `evaluation` section of a config.
    key: of all randomness.
    metrics: names from `METRICS`; None for all.
    options: sampler settings that replace those of the config.

  Raises:
    ConfigError: for an unknown metric, split or extractor.
  """
  names = list(METRICS if metrics is None else metrics)
  chosen = {name: pick(METRICS, name, 'metric') for name in names}
  pick(data.splits, settings['split'], 'split')
  subject = Subject(method, params, data, settings, key, options or {})
  measures = {name: metric.measure(subject) for name, metric in chosen.items()}
  spec = data.spec
  if spec.domain == 'series':
    found = vars(subject).get('forecasts')
    shown = None if found is None else forecasts.picture(found.first(showing.WINDOWS))
    return Evaluation(measures, NOTHING, None, 1, spec.levels, plot=shown)
  columns = 1 if spec.domain == 'music' else spec.num_classes or 10
  shown = PICTURE_ROWS * columns
  if spec.domain == 'text':
    drawn = subject.drawn.x[: showing.TEXTS] if 'drawn' in vars(subject) else NO_TOKENS
    return Evaluation(measures, NOTHING, None, 1, spec.levels, showing.texts(spec, drawn))
  if any(metric.of_samples for metric in chosen.values()):
    (samples, levels), labels = subject.images, subject.drawn.labels
  else:
    samples, levels, labels = NOTHING, spec.levels, None
  labels = None if labels is None else labels[:shown]
  return Evaluation(measures, samples[:shown], labels, columns, levels)


def _agreement(subject: Subject) -> Measure:
  if not subject.data.spec.num_classes:
    return Measure(None, note='the data has no classes')
  if subject.data.spec.domain != 'image':
    return Measure(None, note='of images')
  if not subject.method.labelled:
    return Measure(None, note='the model cannot be asked for a class')
  judge = classifiers.judge(subject.real)
  value, error = agreement(subject.images[0], subject.drawn.labels, judge)
  num_test = len(subject.real.test_x)
  own = f'{judge.name.upper()} with accuracy {judge.accuracy:.1%} on {num_test} test images'
  return Measure(value, error, f'judged by an {own}; n={len(subject.drawn.x)}')


def _frechet(subject: Subject) -> Measure:
  if subject.data.spec.domain != 'image':
    return Measure(None, note='a distance between images')
  if subject.data.spec.num_classes == 0 and subject.settings['extractor'] == 'mlp':
    raise ConfigError("evaluation.extractor='mlp' needs data with classes; use 'pixels'")
  features = extractor(subject.settings['extractor'], subject.real)
  samples, labels = subject.images[0], subject.drawn.labels
  real = features.apply(subject.real.x)
  one, _ = frechet.halves(subject.real.label, len(samples))
  size, reference = len(one), frechet.moments(real[one])
  ours = features.apply(samples[:size])
  value = frechet.gaussian_distance(frechet.moments(ours), reference)
  error = frechet.standard_error(ours, reference, None if labels is None else labels[:size])
  floor = frechet.floor(real, subject.real.label, size)
  name = f'FD({features.name}, n={size})'
  return Measure(value, error, f'{name}, floor {floor:.3g}; {features.note}')


def _bits_per_dim(subject: Subject) -> Measure:
  if not subject.method.has_likelihood:
    return Measure(None, note='the method has no likelihood')
  split, batch = subject.settings['split'], subject.settings['batch_size']
  batches = evaluation_batches(subject.data.splits[split], batch)
  dims = subject.data.spec.num_dims
  bits = bits_per_dim(subject.method, subject.params, batches, dims, subject.key)
  exact = f'estimation error {bits.estimation_error:.2g}' if bits.estimation_error else 'exact'
  note = f'{split} split, n={bits.num}, {exact}{_unit(subject.data.spec, bits.value)}'
  return Measure(bits.value, bits.standard_error, note, bits.parts)


def _unit(spec: DataSpec, bits: float) -> str:
  """What a dimension is, where that is not plain."""
  if spec.palette is not None:
    return '; of palette indices, not of colours'
  if spec.domain == 'music':
    nats = bits * spec.shape[1] * math.log(2)
    return f'; a dimension is a voice in a sixteenth: {nats:.4g} nats per frame'
  return ''


def _crps(subject: Subject) -> Measure:
  return crps.in_units(subject.scores) if subject.scores else NO_SERIES


def _normalised_crps(subject: Subject) -> Measure:
  return crps.normalised(subject.scores) if subject.scores else NO_SERIES


def _evaluations(subject: Subject) -> Measure:
  return Measure(float(subject.drawn.evaluations), 0.0)


def _seconds_per_sample(subject: Subject) -> Measure:
  batch = min(subject.settings['batch_size'], subject.settings['num_samples'])
  seconds = np.asarray(subject.drawn.seconds) / batch
  error = float(seconds.std(ddof=1) / np.sqrt(len(seconds)))
  note = f'median of {len(seconds)} calls for {batch} samples at once, compiled'
  return Measure(float(np.median(seconds)), error, note)


def _parameters(subject: Subject) -> Measure:
  return Measure(float(sum(leaf.size for leaf in jax.tree.leaves(subject.params))), 0.0)


class Metric(NamedTuple):
  """A metric: how it is measured, what a table calls it, and whether it depends on sampling."""

  measure: Callable[[Subject], Measure]
  title: str
  of_samples: bool = True


METRICS = {
  'agreement': Metric(_agreement, 'class agreement'),
  'frechet': Metric(_frechet, 'Fréchet distance'),
  'bits_per_dim': Metric(_bits_per_dim, 'bits/dim', of_samples=False),
  'crps': Metric(_crps, 'CRPS'),
  'normalised_crps': Metric(_normalised_crps, 'normalised CRPS'),
  'evaluations': Metric(_evaluations, 'network evaluations per sample'),
  'seconds_per_sample': Metric(_seconds_per_sample, 'seconds per sample'),
  'parameters': Metric(_parameters, 'parameters', of_samples=False),
}


def _images(source: Source, num_classes: int) -> tuple[np.ndarray, np.ndarray]:
  """Images and labels of a split, or of a fixed random part of a large one."""
  indices = np.sort(np.random.default_rng(0).permutation(len(source))[:REAL_EXAMPLES])
  examples = source.gather(indices)
  labels = examples['label'] if num_classes else np.zeros(len(indices), np.int32)
  return examples['x'], labels
