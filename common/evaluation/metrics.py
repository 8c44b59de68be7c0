"""What can be measured: each metric by name, with the function that computes it."""

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import numpy as np

from common.config import ConfigError
from common.data.pipeline import Data, evaluation_batches
from common.evaluation.forecasts import scores
from common.evaluation.images import classifiers, frechet
from common.evaluation.images.agreement import share
from common.evaluation.images.features import extractor
from common.evaluation.likelihood import bits_per_dim
from common.evaluation.measures import Measure
from common.evaluation.subject import Reader, Subject
from common.evaluation.texts import metrics as texts
from common.method import Method
from common.reporting.progress import reported

NO_LIKELIHOOD = 'the method has no likelihood'
ONE_CLASS = 'the data has only one class'
# Classes whose numbers of examples differ by this factor are unequal: a note says so.
UNEQUAL = 1.5


def no_classes(method: Method, data: Data) -> str:
  """The reason why no two classes can be requested; '' if they can."""
  if not data.spec.num_classes:
    return 'the data has no classes'
  if not method.labelled:
    return 'the model cannot draw a requested class'
  return ONE_CLASS if data.spec.num_classes < 2 else ''


def _no_agreement(subject: Subject) -> str:
  """The reason why class agreement cannot be measured; '' if it can."""
  if reason := no_classes(subject.method, subject.data):
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
SERIES_ONLY = 'applies only to time series'
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
    about: what it is, if that is not in the docstring of `measure`.
  """

  measure: Callable[[Subject], Measure]
  title: str
  draws: str = SAMPLES
  scope: str = ''
  reader: Callable[[Subject], Reader | None] | None = None
  about: str = ''

  @property
  def of_samples(self) -> bool:
    """Whether the value depends on how samples are drawn."""
    return self.draws != NO_DRAWS


def _of_forecasts(score: str, title: str, about: str) -> Metric:
  """A metric that is a score of the forecasts of the evaluated split."""
  return Metric(functools.partial(_score, score), title, FORECASTS, SERIES_ONLY, about=about)


METRICS = {
  'agreement': Metric(
    _agreement, 'class agreement', scope='applies only to images', reader=_class_reader
  ),
  'frechet': Metric(
    _frechet, 'Fréchet distance', scope='applies only to images', reader=_feature_reader
  ),
  'bits_per_dim': Metric(_bits_per_dim, 'bits/dim', NO_DRAWS),
  'crps': _of_forecasts(
    'crps', 'CRPS', 'Continuous ranked probability score of forecasts, in units of the values.'
  ),
  'normalised_crps': _of_forecasts(
    'normalised_crps', 'normalised CRPS', 'Σ CRPS / Σ |truth| over the windows of the split.'
  ),
  'quantile_loss': _of_forecasts(
    'quantile_loss', 'weighted quantile loss', '2·Σ ρ_τ / Σ |truth|, mean over τ = 0.05 to 0.95.'
  ),
  'crps_sum': _of_forecasts(
    'crps_sum', 'CRPS-sum', 'Weighted quantile loss of the sum of all series.'
  ),
  'normalised_deviation': _of_forecasts(
    'normalised_deviation', 'ND', 'Σ |median - truth| / Σ |truth| over the windows of the split.'
  ),
  'smape': _of_forecasts(
    'smape', 'sMAPE', 'Symmetric mean absolute percentage error of the median (M3, M4).'
  ),
  'mape': _of_forecasts('mape', 'MAPE', 'Mean absolute percentage error of the median.'),
  'mase': _of_forecasts(
    'mase', 'MASE', 'Mean absolute error of the median, relative to seasonal naive in training.'
  ),
  'owa': Metric(_owa, 'OWA', FORECASTS, SERIES_ONLY),
  'coverage': _of_forecasts(
    'inside_80', 'coverage of the 80 % interval', 'Share of true values in the 80 % interval.'
  ),
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
