"""Evaluates a method of any family by named metrics.

  evaluation = evaluate(method, params, data, config.evaluation, key)
  evaluation.measures['agreement']  # Measure(value=0.957, standard_error=0.0066, note='...')

If a metric does not apply (no likelihood, no classes, another kind of data), its `Measure` is empty
and says why.
"""

import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import Array, Key

from common.config import ConfigError, pick
from common.data.pipeline import Data
from common.data.series.windows import FUTURE
from common.domains import domain_of
from common.domains.display import EvaluationDraws
from common.evaluation.forecasts.baselines import BASELINES
from common.evaluation.images import frechet
from common.evaluation.images.features import EXTRACTORS
from common.evaluation.measures import Evaluation, Measure
from common.evaluation.metrics import (
  FORECASTS,
  METRICS,
  NO_DRAWS,
  SAMPLES,
  Metric,
)
from common.evaluation.subject import REAL, BaselineSubject, EnsembleSubject, RealSubject, Subject
from common.method import Method, NotFiniteError, PyTree

NO_MODEL = 'a baseline is no model'
NO_ENSEMBLE = 'of a single model, not of an ensemble'
NO_SAMPLES = 'a classifier draws no samples'
OF_FEATURES = frozenset(
  ('frechet', 'precision', 'recall', 'reconstruction')
)  # metrics that need an extractor


# What a row of a study may be in place of a model.
BASELINES_OF_ROWS = dict.fromkeys((*BASELINES, REAL))
# Metrics of samples that need no model, and so can be measured of real ones.
OF_REAL = frozenset(('distinct', 'self_bleu', 'zipf', 'repetition', 'looping'))


class Member(NamedTuple):
  """A member of an ensemble."""

  method: Method
  params: PyTree
  data: Data


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
    if name not in applicable:
      measures[name] = Measure(None, note=metric.scope)
    elif metric.draws != NO_DRAWS and method.noise_levels:
      measures[name] = Measure(None, note=NO_SAMPLES)
    else:
      measures[name] = draws.measure(metric, subject)
  drawn = _drawn(subject, draws.finite)
  return Evaluation(measures, subject.domain.evaluation_display(data.spec, drawn))


def evaluate_baseline(
  name: str, data: Data, settings: Mapping[str, Any], metrics: Iterable[str] | None = None
) -> Evaluation:
  """Measures a classical forecast, or real texts, as `evaluate` measures a model.

  Args:
    name: a key of `common.evaluation.forecasts.baselines.BASELINES`, or 'real': examples of the
      evaluated split in place of samples.
    data: time series; for 'real', texts.
    settings: the `evaluation` section of a config.
    metrics: names from `METRICS`; None for all.

  Raises:
    ConfigError: for an unknown baseline, one whose package is not installed, data that is not time
      series, or settings that do not suit it.
  """
  if name == REAL:
    return _evaluate_real(data, settings, metrics)
  pick(BASELINES, name, 'baseline')
  names = check_forecasts(f'baseline {name!r}', data, settings, metrics)
  subject = BaselineSubject(Method(), {}, data, settings, jax.random.key(0), {}, {}, name)
  return _evaluate_forecasts(subject, names, NO_MODEL)


def _evaluate_real(
  data: Data, settings: Mapping[str, Any], metrics: Iterable[str] | None
) -> Evaluation:
  """Measures the metrics of samples, on real ones; those that need a model are missing."""
  names = list(METRICS if metrics is None else metrics)
  check_settings(settings, data, names)
  known = OF_REAL & domain_of(data.spec).metrics
  if not known:
    raise ConfigError(f'baseline {REAL!r} is for texts, and {data.spec.name} has none')
  measured = [name for name in names if name in known]
  readers = {name: METRICS[name].reader for name in measured}
  subject = RealSubject(Method(), {}, data, settings, jax.random.key(0), {}, readers)
  found = {name: METRICS[name].measure(subject) for name in measured}
  return Evaluation({name: found.get(name, Measure(None, note=NO_MODEL)) for name in names})


def evaluate_ensemble(
  members: Sequence[Member],
  settings: Mapping[str, Any],
  key: Key[Array, ''],
  metrics: Iterable[str] | None = None,
  options: Mapping[str, Any] | None = None,
) -> Evaluation:
  """Measures the pooled forecasts of several models, as `evaluate` measures one.

  Args:
    members: at least one; their windows may have contexts of different lengths.
    settings: the `evaluation` section of a config; `num_samples` draws of each member.
    key: determines all random numbers.
    metrics: names from `METRICS`; None for all.
    options: sampler settings that replace those of the configs.

  Raises:
    ConfigError: for data that are not time series, members that do not forecast the same windows,
      or settings that do not suit the data.
  """
  names = check_forecasts('an ensemble', members[0].data, settings, metrics)
  subjects = []
  for i, (method, params, data) in enumerate(members):
    check_forecasts('an ensemble', data, settings, names)
    noise = jax.random.fold_in(key, i)
    subjects.append(Subject(method, params, data, settings, noise, options or {}, {}))
  subject = EnsembleSubject(*members[0], settings, key, options or {}, {}, tuple(subjects))
  return _evaluate_forecasts(subject, names, NO_ENSEMBLE)


def check_forecasts(
  what: str, data: Data, settings: Mapping[str, Any], metrics: Iterable[str] | None
) -> list[str]:
  """The metrics to measure of forecasts, all if None is given.

  Args:
    what: what forecasts, for messages.
    data, settings: see `evaluate`.
    metrics: names from `METRICS`; None for all.

  Raises:
    ConfigError: for data that are not time series, or settings that do not suit the data.
  """
  if 'crps' not in domain_of(data.spec).metrics:
    raise ConfigError(f'{what} forecasts time series, but {data.spec.name} has none')
  names = list(METRICS if metrics is None else metrics)
  check_settings(settings, data, names)
  return names


def _evaluate_forecasts(subject: Subject, names: Iterable[str], why: str) -> Evaluation:
  """Measures the metrics of forecasts; the others are missing, with the reason."""
  measures, draws = {}, _Draws()
  for metric in names:
    measures[metric] = Measure(None, note=why)
    if METRICS[metric].draws == FORECASTS:
      measures[metric] = draws.measure(METRICS[metric], subject)
  drawn = _drawn(subject, draws.finite)
  return Evaluation(measures, subject.domain.evaluation_display(subject.data.spec, drawn))


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
  known = domain_of(data.spec).metrics
  if 'frechet' not in known:
    for name, default in (('sample_sets', 1), ('reference', 'as_many')):
      if settings[name] != default:
        raise ConfigError(
          f'evaluation.{name} must be {default} for {data.spec.name}, got {settings[name]}: it '
          'only changes the Fréchet distance of images'
        )
  asked = known.intersection(METRICS if metrics is None else metrics)
  if not OF_FEATURES & asked:
    return
  if extractor_name == 'mlp' and data.spec.num_classes < 2:
    raise ConfigError(
      "evaluation.extractor='mlp' needs data with two classes or more; set it to 'pixels'"
    )
  num = settings['num_samples']
  distances = ' and '.join(name for name in ('frechet', 'reconstruction') if name in asked)
  if distances and num < frechet.MIN_SAMPLES:
    raise ConfigError(
      f'a Fréchet distance needs at least {frechet.MIN_SAMPLES} samples, got '
      f'evaluation.num_samples={num}: draw more, or leave {distances} out of the metrics'
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
  reasons = {name: not_measured(name, method, data) for name in METRICS}
  for name in metrics or ():
    if reasons[name]:
      known = ', '.join(name for name, reason in reasons.items() if not reason)
      raise ConfigError(f'metric {name} of {spec.name}: {reasons[name]}; its metrics: {known}')
  if not (without_draws(names) or method.noise_levels):
    one, domain = np.zeros(1, np.int32), domain_of(spec)
    label = one if spec.num_classes and method.labelled else None
    source = data.splits[settings['split']]
    method.check_request(None, domain.evaluation_request(spec, one, label, source, options))


def not_measured(name: str, method: Method, data: Data) -> str:
  """Why a metric cannot be measured; '' if it can."""
  if name not in domain_of(data.spec).metrics:
    return METRICS[name].scope
  if METRICS[name].draws != NO_DRAWS and method.noise_levels:
    return NO_SAMPLES
  return METRICS[name].missing(method, data)


def without_draws(metrics: Iterable[str]) -> bool:
  """Whether none of the metrics needs samples or forecasts."""
  return all(METRICS[name].draws == NO_DRAWS for name in metrics)


class _Draws:
  """Measures metrics; draws that are not finite cost the metrics that need them, and no others."""

  def __init__(self):
    self.finite: set[str] = set()  # the kinds of draws that some metric used
    self._failed: dict[str, Measure] = {}  # by kind of draws: they are not tried again

  def measure(self, metric: Metric, subject: Subject) -> Measure:
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
