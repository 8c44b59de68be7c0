"""Evaluates a method of any family by named metrics.

  evaluation = evaluate(method, params, data, config.evaluation, key)
  evaluation.measures['agreement']  # Measure(value=0.957, standard_error=0.0066, note='...')

If a metric does not apply (no likelihood, no classes, another kind of data), its `Measure` is empty
and says why.
"""

import dataclasses
import functools
import math
import time
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import Array, Int, Integer, Key, UInt8

from common.config import ConfigError, pick
from common.data.pipeline import Data, evaluation_batches
from common.data.sources import Source
from common.domains import domain_of
from common.domains.base import Domain, EvaluationDraws
from common.domains.labels import class_cycle
from common.domains.series import Forecasts, Windows, forecast
from common.evaluation import classifiers, crps, frechet
from common.evaluation.agreement import agreement
from common.evaluation.features import EXTRACTORS, extractor
from common.evaluation.likelihood import bits_per_dim
from common.evaluation.measures import Evaluation, Measure
from common.method import Method, NotFiniteError, PyTree
from common.reporting.progress import reported

# Calls of the sampler that are timed, after the first, which compiles it.
TIMED_CALLS = 3
# The largest number of real examples of a split for distances and classifiers.
REAL_EXAMPLES = 60_000
MIN_FRECHET_SAMPLES = 2  # a covariance needs two
# Classes whose numbers of examples differ by this factor are unequal: a note says so.
UNEQUAL = 1.5


class TimedSamples(NamedTuple):
  """Samples, and the cost of drawing them.

  Attributes:
    x: the samples.
    label: the classes that were requested, or None.
    evaluations: network evaluations per sample.
    seconds: duration of each timed call.
  """

  x: Integer[np.ndarray, 'n *shape']
  label: Int[np.ndarray, 'n'] | None
  evaluations: int
  seconds: tuple[float, ...]


@dataclasses.dataclass(frozen=True)
class Subject:
  """A model under evaluation; samples are drawn once, when the first metric asks for them.

  Attributes:
    method, params: the model.
    data: real data to compare it with.
    settings: the `evaluation` section of a config.
    key: determines all random numbers.
    options: sampler settings that replace those of the config.
  """

  method: Method
  params: PyTree
  data: Data
  settings: Mapping[str, Any]
  key: Key[Array, '']
  options: Mapping[str, Any]

  @property
  def domain(self) -> Domain:
    """The kind of data."""
    return domain_of(self.data.spec)

  @property
  def split(self) -> Source:
    """The split that is evaluated."""
    return self.data.splits[self.settings['split']]

  @functools.cached_property
  def samples(self) -> TimedSamples:
    """`settings.num_samples` samples, with each class as frequent as in the training split."""
    num, batch = self.settings['num_samples'], self.settings['batch_size']
    batch = min(batch, num)
    calls = -(-num // batch)
    x, labels, seconds, evaluations = [], [], [], 0
    # All calls draw `batch` samples, so the sampler compiles once; a surplus is cut off at the end.
    # Calls beyond the number needed only serve the timing.
    for call in range(max(calls, 1 + TIMED_CALLS)):
      indices = call * batch + np.arange(batch)
      label = None if self.classes is None else self.classes[indices % len(self.classes)]
      request = self.domain.evaluation_request(
        self.data.spec, indices, label, self.split, self.options
      )
      start = time.perf_counter()
      samples = self.method.draw(self.params, jax.random.fold_in(self.key, call), request)
      drawn = np.asarray(samples.x)  # waits until the device has finished: part of the time
      seconds.append(time.perf_counter() - start)
      if call < calls:
        x.append(drawn)
        evaluations = int(samples.evaluations)
        if request.label is not None:
          labels.append(np.asarray(request.label))
    label = np.concatenate(labels)[:num] if labels else None
    # The first call compiles, so its time does not count.
    return TimedSamples(np.concatenate(x)[:num], label, evaluations, tuple(seconds[1:]))

  @functools.cached_property
  def class_counts(self) -> Int[np.ndarray, 'classes']:
    """Number of real training examples of each class; empty if the data have no classes."""
    num_classes = self.data.spec.num_classes
    label = self.training[1] if num_classes else np.zeros(0, np.int32)
    return np.bincount(label, minlength=num_classes)

  @functools.cached_property
  def classes(self) -> Int[np.ndarray, 'total'] | None:
    """The classes of the samples, in turn; None if the method does not take classes."""
    # As frequent as in the reference: otherwise a perfect model would be far from it.
    labelled = self.data.spec.num_classes and self.method.labelled
    return class_cycle(self.class_counts) if labelled else None

  @functools.cached_property
  def training(self) -> tuple[np.ndarray, Int[np.ndarray, 'n']]:
    """Examples of the training split and their classes: the reference."""
    return _examples(self.data.splits['train'], self.data.spec.num_classes)

  @functools.cached_property
  def forecasts(self) -> Forecasts:
    """`settings.num_samples` draws of every window of the split."""
    return forecast(
      self.method,
      self.params,
      self.key,
      Windows(self.data.spec, self.split, np.arange(len(self.split))),
      self.settings['num_samples'],
      self.settings['batch_size'],
      self.options,
    )

  @functools.cached_property
  def scores(self) -> crps.Scores:
    """The scores of `forecasts`."""
    return crps.score(self.forecasts, self.data.spec.series.season, self.settings['split'])

  @functools.cached_property
  def images(self) -> UInt8[np.ndarray, 'n height width channels']:
    """The samples as images."""
    return self.domain.as_images(self.data.spec, self.samples.x)[0]

  @functools.cached_property
  def real(self) -> classifiers.LabelledImages:
    """The training split, and the evaluated split, on which a classifier's accuracy is measured."""
    spec = self.data.spec
    (x, label), (test_x, test_label) = self.training, _examples(self.split, spec.num_classes)
    (x, levels), (test_x, _) = (self.domain.as_images(spec, part) for part in (x, test_x))
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
    params: its parameters, usually their moving average.
    data: real data; distances and classifiers use its training split, likelihoods
      `settings.split`.
    settings: the `evaluation` section of a config.
    key: determines all random numbers.
    metrics: names from `METRICS`; None for all.
    options: sampler settings that replace those of the config.

  Raises:
    ConfigError: see `check_settings`.
  """
  names = list(METRICS if metrics is None else metrics)
  check_settings(settings, data, names)
  subject = Subject(method, params, data, settings, key, options or {})
  measures, draws = {}, _Draws()
  for name in names:
    metric = METRICS[name]
    if name in subject.domain.metrics:
      measures[name] = draws.measure(metric, subject)
    else:
      measures[name] = Measure(None, note=metric.scope)
  drawn = _drawn(subject, draws.finite)
  return Evaluation(measures, subject.domain.evaluation_display(data.spec, drawn))


def check_settings(settings: Mapping[str, Any], data: Data, metrics: Collection[str] = ()) -> None:
  """Checks that data can be evaluated with some settings; evaluates nothing.

  Args:
    settings: the `evaluation` section of a config.
    data: the data to evaluate on.
    metrics: names of the metrics to measure.

  Raises:
    ConfigError: for an unknown metric, split or extractor, an extractor that does not suit the
      data, or too few samples for a metric.
  """
  for name in metrics:
    pick(METRICS, name, 'metric')
  pick(data.splits, settings['split'], 'split')
  extractor_name = settings['extractor']
  pick(EXTRACTORS, extractor_name, 'extractor')
  frechet_applies = 'frechet' in domain_of(data.spec).metrics
  if frechet_applies and extractor_name == 'mlp' and data.spec.num_classes < 2:
    raise ConfigError(
      "evaluation.extractor='mlp' needs data with two classes or more; set it to 'pixels'"
    )
  num = settings['num_samples']
  if frechet_applies and 'frechet' in metrics and num < MIN_FRECHET_SAMPLES:
    raise ConfigError(
      f'a Fréchet distance needs at least {MIN_FRECHET_SAMPLES} samples, got '
      f'evaluation.num_samples={num}: draw more, or leave frechet out of the metrics'
    )


class _Draws:
  """Measures metrics; draws that are not finite cost the metrics that need them, and no others."""

  def __init__(self):
    self.finite: set[str] = set()  # the kinds of draws that some metric used
    self._failed: dict[str, Measure] = {}  # by kind of draws: they are not tried again

  def measure(self, metric: 'Metric', subject: Subject) -> Measure:
    """The measure; NaN, with the reason as its note, if it is not finite."""
    if metric.draws in self._failed:
      return self._failed[metric.draws]
    try:
      measure = metric.measure(subject)
    except NotFiniteError as error:
      measure = Measure(math.nan, note=str(error))
      if metric.draws != NO_DRAWS:
        self._failed[metric.draws] = measure
      return measure
    self.finite.add(metric.draws)
    return measure


def _drawn(subject: Subject, draws: set[str]) -> EvaluationDraws:
  """The draws that some metric needed: only these are shown."""
  forecasts = subject.forecasts if FORECASTS in draws else None
  if SAMPLES not in draws:
    return EvaluationDraws(forecasts=forecasts)
  return EvaluationDraws(subject.samples.x, subject.samples.label, forecasts)


def _agreement(subject: Subject) -> Measure:
  if not subject.data.spec.num_classes:
    return Measure(None, note='the data has no classes')
  if not subject.method.labelled:
    return Measure(None, note='the model cannot draw a requested class')
  if np.count_nonzero(subject.class_counts) < 2:
    return Measure(None, note='the data has only one class')
  judge = classifiers.agreement_classifier(subject.real)
  value, error = agreement(subject.images, subject.samples.label, judge)
  accuracy = f'accuracy {judge.accuracy:.1%} on {len(subject.real.test_x)} test images'
  note = f'judged by an {judge.name.upper()} with {accuracy}; n={len(subject.images)}'
  note += _class_note(subject)
  return Measure(value, error, note)


def _frechet(subject: Subject) -> Measure:
  if np.count_nonzero(subject.class_counts) < 2 and subject.settings['extractor'] == 'mlp':
    raise ConfigError(
      "evaluation.extractor='mlp' needs data with two classes or more; set it to 'pixels'"
    )
  features = extractor(subject.settings['extractor'], subject.real)
  samples, label = subject.images, subject.samples.label
  real = features.apply(subject.real.x)
  # Distance and floor must compare sets of the same size: the bias of a distance depends on it.
  half, _ = frechet.halves(subject.real.label, len(samples))
  size, reference = len(half), frechet.moments(real[half])
  # The first `size` samples have the classes in the same proportions as all.
  ours = features.apply(samples[:size])
  value = frechet.gaussian_distance(frechet.moments(ours), reference)
  error = frechet.standard_error(ours, reference, None if label is None else label[:size])
  floor = frechet.floor(real, subject.real.label, size)
  name = f'FD({features.name}, n={size})'
  note = f'{name}, floor {floor:.3g}; {features.note}{_class_note(subject)}'
  return Measure(value, error, note)


def _class_note(subject: Subject) -> str:
  """A note on the classes of the samples, if the data have some far oftener than others."""
  counts = subject.class_counts[subject.class_counts > 0]
  if not subject.method.labelled or not len(counts) or counts.max() < UNEQUAL * counts.min():
    return ''
  return f'; classes as frequent as in training ({counts.min():,} to {counts.max():,} examples)'


def _bits_per_dim(subject: Subject) -> Measure:
  if not subject.method.has_likelihood:
    return Measure(None, note='the method has no likelihood')
  spec, split = subject.data.spec, subject.settings['split']
  size = subject.settings['batch_size']
  batches = evaluation_batches(subject.split, size)
  batches = reported(batches, -(-len(subject.split) // size), 'likelihood')
  bits = bits_per_dim(subject.method, subject.params, batches, spec.num_dims, subject.key)
  exact = (
    f'estimation error ± {1.96 * bits.estimation_error:.2g}' if bits.estimation_error else 'exact'
  )
  unit = subject.domain.dimension_note(spec, bits.value)
  note = f'{split} split, n={bits.num}, {exact}{unit}'
  return Measure(bits.value, bits.standard_error, note, bits.parts)


def _crps(subject: Subject) -> Measure:
  return crps.mean_crps(subject.scores)


def _normalised_crps(subject: Subject) -> Measure:
  return crps.normalised_crps(subject.scores)


def _evaluations(subject: Subject) -> Measure:
  return Measure(float(subject.samples.evaluations), 0.0)


def _seconds_per_sample(subject: Subject) -> Measure:
  batch = min(subject.settings['batch_size'], subject.settings['num_samples'])
  # The last batch is full, so every call draws `batch` samples.
  seconds = np.asarray(subject.samples.seconds) / batch
  error = float(seconds.std(ddof=1) / np.sqrt(len(seconds)))
  note = f'median of {len(seconds)} calls for {batch} samples at once, compiled'
  return Measure(float(np.median(seconds)), error, note, dof=len(seconds) - 1)


def _parameters(subject: Subject) -> Measure:
  return Measure(float(sum(leaf.size for leaf in jax.tree.leaves(subject.params))), 0.0)


# The kinds of draws that a metric can need.
SAMPLES, FORECASTS, NO_DRAWS = 'samples', 'forecasts', ''


class Metric(NamedTuple):
  """A metric.

  Attributes:
    measure: the function that computes it.
    title: its name in tables.
    draws: the kind of draws that it needs, if any.
    scope: a note for other kinds of data, if it does not apply to all (`Domain.metrics`).
  """

  measure: Callable[[Subject], Measure]
  title: str
  draws: str = SAMPLES
  scope: str = ''

  @property
  def of_samples(self) -> bool:
    """Whether the value depends on how samples are drawn."""
    return self.draws != NO_DRAWS


METRICS = {
  'agreement': Metric(_agreement, 'class agreement', scope='applies only to images'),
  'frechet': Metric(_frechet, 'Fréchet distance', scope='applies only to images'),
  'bits_per_dim': Metric(_bits_per_dim, 'bits/dim', NO_DRAWS),
  'crps': Metric(_crps, 'CRPS', FORECASTS, 'applies only to time series'),
  'normalised_crps': Metric(
    _normalised_crps, 'normalised CRPS', FORECASTS, 'applies only to time series'
  ),
  'evaluations': Metric(_evaluations, 'network evaluations per sample'),
  'seconds_per_sample': Metric(_seconds_per_sample, 'seconds per sample'),
  'parameters': Metric(_parameters, 'parameters', NO_DRAWS),
}


def _examples(source: Source, num_classes: int) -> tuple[np.ndarray, np.ndarray]:
  """Examples and labels of a split; of a large split, a fixed random part."""
  indices = np.sort(np.random.default_rng(0).permutation(len(source))[:REAL_EXAMPLES])
  examples = source.gather(indices)
  labels = examples['label'] if num_classes else np.zeros(len(indices), np.int32)
  return examples['x'], labels
