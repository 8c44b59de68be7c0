"""Evaluates a method of any family by named metrics.

  evaluation = evaluate(method, params, data, config.evaluation, key)
  evaluation.measures['agreement']  # Measure(value=0.957, standard_error=0.0066, note='...')

If a metric does not apply (no likelihood, no classes, another kind of data), its `Measure` is empty
and says why.
"""

import functools
import math
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import Array, Key

from common.config import ConfigError, pick
from common.data.pipeline import Data, evaluation_batches
from common.data.series.windows import FUTURE
from common.domains import domain_of
from common.domains.display import EvaluationDraws
from common.evaluation import classifiers, frechet
from common.evaluation.agreement import share
from common.evaluation.features import EXTRACTORS, extractor
from common.evaluation.forecasts import scores
from common.evaluation.forecasts.baselines import BASELINES
from common.evaluation.likelihood import bits_per_dim
from common.evaluation.measures import Evaluation, Measure
from common.evaluation.subject import BaselineSubject, Reader, Subject
from common.evaluation.texts import metrics as texts
from common.method import Method, NotFiniteError, PyTree
from common.reporting.progress import reported

NO_MODEL = 'a baseline is no model'
NO_LIKELIHOOD = 'the method has no likelihood'
ONE_CLASS = 'the data has only one class'
MIN_FRECHET_SAMPLES = 2  # a covariance needs two
# Classes whose numbers of examples differ by this factor are unequal: a note says so.
UNEQUAL = 1.5


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
  applicable = domain_of(data.spec).metrics
  readers = {n: METRICS[n].reader for n in names if n in applicable and METRICS[n].reader}
  subject = Subject(method, params, data, settings, key, options or {}, readers)
  measures, draws = {}, _Draws()
  for name in names:
    metric = METRICS[name]
    if name in applicable:
      measures[name] = draws.measure(metric, subject)
    else:
      measures[name] = Measure(None, note=metric.scope)
  drawn = _drawn(subject, draws.finite)
  return Evaluation(measures, subject.domain.evaluation_display(data.spec, drawn))


def evaluate_baseline(
  name: str, data: Data, settings: Mapping[str, Any], metrics: Iterable[str] | None = None
) -> Evaluation:
  """Measures a classical forecast, as `evaluate` measures a model.

  Args:
    name: a key of `common.evaluation.forecasts.baselines.BASELINES`.
    data: time series.
    settings: the `evaluation` section of a config.
    metrics: names from `METRICS`; None for all.

  Raises:
    ConfigError: for an unknown baseline, one whose package is not installed, data that is not time
      series, or settings that do not suit it.
  """
  pick(BASELINES, name, 'baseline')
  if 'crps' not in domain_of(data.spec).metrics:
    raise ConfigError(f'baselines are forecasts of time series, but {data.spec.name} has none')
  names = list(METRICS if metrics is None else metrics)
  check_settings(settings, data, names)
  subject = BaselineSubject(Method(), {}, data, settings, jax.random.key(0), {}, {}, name)
  measures, draws = {}, _Draws()
  for metric in names:
    measures[metric] = Measure(None, note=NO_MODEL)
    if METRICS[metric].draws == FORECASTS:
      measures[metric] = draws.measure(METRICS[metric], subject)
  drawn = _drawn(subject, draws.finite)
  return Evaluation(measures, subject.domain.evaluation_display(data.spec, drawn))


def check_settings(
  settings: Mapping[str, Any], data: Data, metrics: Collection[str] | None = None
) -> None:
  """Checks that data can be evaluated with some settings; evaluates nothing.

  Args:
    settings: the `evaluation` section of a config.
    data: the data to evaluate on.
    metrics: names of the metrics to measure; None if they are not known yet, as before training.

  Raises:
    ConfigError: for an unknown metric, split or extractor, an extractor that does not suit the
      data, or too few samples for a metric.
  """
  for name in metrics or ():
    pick(METRICS, name, 'metric')
  # Nothing is known yet of the future.
  splits = {name: source for name, source in data.splits.items() if name != FUTURE}
  source = pick(splits, settings['split'], 'evaluation.split')
  if not len(source):
    raise ConfigError(
      f'the {settings["split"]} split of {data.spec.name} is empty; name data to measure on, '
      'such as --on=NAME'
    )
  extractor_name = settings['extractor']
  pick(EXTRACTORS, extractor_name, 'evaluation.extractor')
  asked = domain_of(data.spec).metrics if metrics is None else metrics
  if 'frechet' not in asked or 'frechet' not in domain_of(data.spec).metrics:
    return
  if extractor_name == 'mlp' and data.spec.num_classes < 2:
    raise ConfigError(
      "evaluation.extractor='mlp' needs data with two classes or more; set it to 'pixels'"
    )
  num = settings['num_samples']
  if num < MIN_FRECHET_SAMPLES:
    raise ConfigError(
      f'a Fréchet distance needs at least {MIN_FRECHET_SAMPLES} samples, got '
      f'evaluation.num_samples={num}: draw more, or leave frechet out of the metrics'
    )


def check_request(
  method: Method,
  data: Data,
  settings: Mapping[str, Any],
  metrics: Collection[str] | None,
  options: Mapping[str, Any],
) -> None:
  """Checks everything that an evaluation needs besides parameters.

  Args:
    method, data, settings, options: see `evaluate`.
    metrics: names of metrics that the user asks for; None: all.

  Raises:
    ConfigError: see `check_settings`; and for a metric that the data or the method does not have.
    ValueError: for options that the method refuses.
  """
  check_settings(settings, data, metrics)
  spec, names = data.spec, list(METRICS) if metrics is None else list(metrics)
  reasons = {name: _not_measured(name, method, data) for name in METRICS}
  for name in metrics or ():
    if reasons[name]:
      known = ', '.join(name for name, reason in reasons.items() if not reason)
      raise ConfigError(f'metric {name} of {spec.name}: {reasons[name]}; its metrics: {known}')
  if not without_draws(names):
    one, domain = np.zeros(1, np.int32), domain_of(spec)
    label = one if spec.num_classes and method.labelled else None
    source = data.splits[settings['split']]
    method.check_request(None, domain.evaluation_request(spec, one, label, source, options))


def _not_measured(name: str, method: Method, data: Data) -> str:
  """Why a metric cannot be measured; '' if it can."""
  if name not in domain_of(data.spec).metrics:
    return METRICS[name].scope
  if name == 'agreement':
    return _no_classes(method, data)
  return '' if name != 'bits_per_dim' or method.has_likelihood else NO_LIKELIHOOD


def without_draws(metrics: Iterable[str]) -> bool:
  """Whether none of the metrics needs samples or forecasts."""
  return all(METRICS[name].draws == NO_DRAWS for name in metrics)


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
  forecasts = subject.scores.shown if FORECASTS in draws else None
  if SAMPLES not in draws:
    return EvaluationDraws(forecasts=forecasts)
  return EvaluationDraws(subject.samples.shown, subject.samples.shown_label, forecasts)


def _no_classes(method: Method, data: Data) -> str:
  """The reason why no two classes can be requested; '' if they can."""
  if not data.spec.num_classes:
    return 'the data has no classes'
  if not method.labelled:
    return 'the model cannot draw a requested class'
  return ONE_CLASS if data.spec.num_classes < 2 else ''


def _no_agreement(subject: Subject) -> str:
  """The reason why class agreement cannot be measured; '' if it can."""
  if reason := _no_classes(subject.method, subject.data):
    return reason
  return ONE_CLASS if np.count_nonzero(subject.class_counts) < 2 else ''


def _class_reader(subject: Subject) -> Reader | None:
  """Reads the class of each image, as the classifier sees it."""
  if _no_agreement(subject):
    return None
  return classifiers.agreement_classifier(subject.real).predict


def _agreement(subject: Subject) -> Measure:
  """Share of samples that a classifier assigns to the class they were requested for."""
  if reason := _no_agreement(subject):
    return Measure(None, note=reason)
  judge = classifiers.agreement_classifier(subject.real)
  label = subject.samples.label
  hits = int(np.sum(subject.samples.read['agreement'] == label))
  value, error, interval = share(hits, len(label))
  accuracy = f'accuracy {judge.accuracy:.1%} on {len(subject.real.test_x)} test images'
  note = f'judged by an {judge.name.upper()} with {accuracy}; n={len(label)}'
  note += _class_note(subject)
  return Measure(value, error, note, interval=interval)


def _feature_reader(subject: Subject) -> Reader:
  """Reads the features of each image."""
  if np.count_nonzero(subject.class_counts) < 2 and subject.settings['extractor'] == 'mlp':
    raise ConfigError(
      "evaluation.extractor='mlp' needs data with two classes or more; set it to 'pixels'"
    )
  return extractor(subject.settings['extractor'], subject.real).apply


def _frechet(subject: Subject) -> Measure:
  """Fréchet distance between samples and training images, in the features of an extractor."""
  samples, label = subject.samples.read['frechet'], subject.samples.label
  features = extractor(subject.settings['extractor'], subject.real)
  real = features.apply(subject.real.x)
  # Distance and floor must compare sets of the same size: the bias of a distance depends on it.
  half, _ = frechet.halves(subject.real.label, len(samples))
  size, reference = len(half), frechet.moments(real[half])
  # The first `size` samples have the classes in the same proportions as all.
  ours = samples[:size]
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
  """Negative log-likelihood of the evaluated split, in bits per dimension."""
  if not subject.method.has_likelihood:
    return Measure(None, note=NO_LIKELIHOOD)
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


def _score(name: str, subject: Subject) -> Measure:
  """A score of the forecasts of the evaluated split (common/evaluation/forecasts/scores.py)."""
  return scores.measure(subject.scores, name)


def _owa(subject: Subject) -> Measure:
  """sMAPE and MASE relative to those of Naive2 (M4)."""
  return scores.owa(subject.scores, subject.naive2)


def _evaluations(subject: Subject) -> Measure:
  """Calls of the network for one sample."""
  return Measure(float(subject.samples.evaluations), 0.0)


def _seconds_per_sample(subject: Subject) -> Measure:
  """Time for one sample, in batches of evaluation.batch_size."""
  batch = min(subject.settings['batch_size'], subject.settings['num_samples'])
  # The last batch is full, so every call draws `batch` samples.
  seconds = np.asarray(subject.samples.seconds) / batch
  error = float(seconds.std(ddof=1) / np.sqrt(len(seconds)))
  note = f'median of {len(seconds)} calls for {batch} samples at once, compiled'
  return Measure(float(np.median(seconds)), error, note, dof=len(seconds) - 1)


def _parameters(subject: Subject) -> Measure:
  """Number of parameters."""
  return Measure(float(sum(leaf.size for leaf in jax.tree.leaves(subject.params))), 0.0)


TEXT_ONLY = 'applies only to text'
# The kinds of draws that a metric can need.
SAMPLES, FORECASTS, NO_DRAWS = 'samples', 'forecasts', ''


class Metric(NamedTuple):
  """A metric.

  Attributes:
    measure: the function that computes it.
    title: its name in tables.
    draws: the kind of draws that it needs, if any.
    scope: a note for other kinds of data, if it does not apply to all (`Domain.metrics`).
    reader: makes what reads samples for it, if it reads any.
  """

  measure: Callable[[Subject], Measure]
  title: str
  draws: str = SAMPLES
  scope: str = ''
  reader: Callable[[Subject], Reader | None] | None = None

  @property
  def of_samples(self) -> bool:
    """Whether the value depends on how samples are drawn."""
    return self.draws != NO_DRAWS


FORECAST_METRICS = {
  'crps': (functools.partial(_score, 'crps'), 'CRPS'),
  'normalised_crps': (functools.partial(_score, 'normalised_crps'), 'normalised CRPS'),
  'quantile_loss': (functools.partial(_score, 'quantile_loss'), 'weighted quantile loss'),
  'crps_sum': (functools.partial(_score, 'crps_sum'), 'CRPS-sum'),
  'normalised_deviation': (functools.partial(_score, 'normalised_deviation'), 'ND'),
  'smape': (functools.partial(_score, 'smape'), 'sMAPE'),
  'mape': (functools.partial(_score, 'mape'), 'MAPE'),
  'mase': (functools.partial(_score, 'mase'), 'MASE'),
  'owa': (_owa, 'OWA'),
  'coverage': (functools.partial(_score, 'inside_80'), 'coverage of the 80 % interval'),
}
METRICS = {
  'agreement': Metric(
    _agreement, 'class agreement', scope='applies only to images', reader=_class_reader
  ),
  'frechet': Metric(
    _frechet, 'Fréchet distance', scope='applies only to images', reader=_feature_reader
  ),
  'bits_per_dim': Metric(_bits_per_dim, 'bits/dim', NO_DRAWS),
  **{
    name: Metric(measure, title, FORECASTS, 'applies only to time series')
    for name, (measure, title) in FORECAST_METRICS.items()
  },
  'perplexity': Metric(texts.perplexity, 'perplexity', NO_DRAWS, TEXT_ONLY),
  'bits_per_byte': Metric(texts.bits_per_byte, 'bits/byte', NO_DRAWS, TEXT_ONLY),
  'bits_per_character': Metric(texts.bits_per_character, 'bits/character', NO_DRAWS, TEXT_ONLY),
  'distinct': Metric(texts.distinct, 'distinct-2', SAMPLES, TEXT_ONLY, texts.words_reader),
  'self_bleu': Metric(texts.self_bleu, 'self-BLEU', SAMPLES, TEXT_ONLY, texts.words_reader),
  'zipf': Metric(texts.zipf, 'Zipf coefficient', SAMPLES, TEXT_ONLY, texts.words_reader),
  'repetition': Metric(texts.repetition, 'repetition', SAMPLES, TEXT_ONLY, texts.words_reader),
  'evaluations': Metric(_evaluations, 'network evaluations per sample'),
  'seconds_per_sample': Metric(_seconds_per_sample, 'seconds per sample'),
  'parameters': Metric(_parameters, 'parameters', NO_DRAWS),
}
