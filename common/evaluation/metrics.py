"""What can be measured: each metric by name, with the function that computes it."""

import functools
import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import numpy as np

from common.data.pipeline import Data, evaluation_batches
from common.evaluation import autoencoding, modes
from common.evaluation.forecasts import scores
from common.evaluation.images import metrics as images
from common.evaluation.likelihood import bits_per_dim
from common.evaluation.measures import Measure
from common.evaluation.subject import Reader, Subject
from common.evaluation.texts import metrics as texts
from common.method import Method
from common.reporting.progress import reported

NO_LIKELIHOOD = 'the method has no likelihood'


def _no_reason(method: Method, data: Data) -> str:
  del method, data
  return ''


def _no_likelihood(method: Method, data: Data) -> str:
  """The reason why there is no likelihood; '' if there is one."""
  del data
  return '' if method.has_likelihood else NO_LIKELIHOOD


def _bits_per_dim(subject: Subject) -> Measure:
  """Negative log-likelihood of the evaluated split, in bits per dimension."""
  if reason := _no_likelihood(subject.method, subject.data):
    return Measure(None, note=reason)
  spec, split = subject.data.spec, subject.settings['split']
  size = subject.settings['batch_size']
  batches = evaluation_batches(subject.split, size)
  batches = reported(batches, -(-len(subject.split) // size), 'likelihood')
  pixels = autoencoding.pixel_nats(subject)
  dims = spec.num_dims if pixels is None else spec.latents.images.num_dims
  bits = bits_per_dim(subject.method, subject.params, batches, dims, subject.key, pixels)
  kinds = [subject.method.likelihood_note]
  if bits.estimation_error:
    kinds.insert(0, f'estimation error ± {1.96 * bits.estimation_error:.2g}')
  unit = subject.domain.dimension_note(spec, bits.value)
  if pixels is not None:
    kinds.insert(0, 'upper bound for images by their one code')
    shares = {name: terms[0] for name, terms in bits.parts.items()}
    unit = f'; {shares["codes"]:.3g} of codes, {shares["pixels"]:.3g} of pixels given codes'
  elif spec.latents is not None:
    unit = '; of latents, not of what they encode'
  kind = '; '.join(filter(None, kinds)) or 'exact'
  note = f'{split} split, n={bits.num}, {kind}{unit}'
  return Measure(bits.value, bits.standard_error, note, bits.parts)


def _nats_per_position(subject: Subject) -> Measure:
  """Negative log-likelihood of the evaluated split, in nats per token or frame that counts."""
  bits = _bits_per_dim(subject)
  if bits.value is None:
    return bits
  # A frame has several values; a token is one.
  nats = math.prod(subject.data.spec.shape[1:]) * math.log(2)
  error = None if bits.standard_error is None else nats * bits.standard_error
  # The unit's note gives the same value.
  unit = subject.domain.dimension_note(subject.data.spec, bits.value)
  return Measure(nats * bits.value, error, bits.note.removesuffix(unit))


def _score(name: str, subject: Subject) -> Measure:
  """A score of the forecasts of the evaluated split (common/evaluation/forecasts/scores.py)."""
  return scores.measure(subject.scores, name)


def _owa(subject: Subject) -> Measure:
  """sMAPE and MASE relative to those of Naive2 (M4)."""
  return scores.owa(subject.scores, subject.naive2)


def _evaluations(subject: Subject) -> Measure:
  """Calls of the network for one sample."""
  return Measure(float(subject.samples.evaluations), 0.0)


def _sampling_flops(subject: Subject) -> Measure:
  """Operations of the network for one sample, in products and convolutions."""
  latents = subject.data.spec.latents
  evaluations = subject.samples.evaluations - (latents is not None)  # one of them decodes
  request = subject.request(np.arange(1))
  total = evaluations * subject.method.evaluation_flops(subject.params, request)
  note = 'network evaluations × operations of one, of its trace'
  if latents is not None:
    total += latents.first_stage.decode_flops()
    note += '; and those of decoding'
  return Measure(float(total), 0.0, note)


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
  number = sum(leaf.size for leaf in jax.tree.leaves(subject.params))
  latents = subject.data.spec.latents
  if latents is None:
    return Measure(float(number), 0.0)
  stage = latents.first_stage.parameters
  return Measure(float(number + stage), 0.0, f'{stage:,} of them of the first stage')


TEXT_ONLY = 'applies only to text'
POSITIONS_ONLY = 'applies only to text, music and piano rolls'
SERIES_ONLY = 'applies only to time series'
IMAGES_ONLY = 'applies only to images'
MODES_ONLY = 'applies only to data whose modes are known'
MIXTURES_ONLY = 'applies only to mixtures of Gaussians'
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
    missing: the reason why it cannot be measured for a method and data that it applies to; '' if it
      can.
    about: what it is, if that is not in the docstring of `measure`.
  """

  measure: Callable[[Subject], Measure]
  title: str
  draws: str = SAMPLES
  scope: str = ''
  reader: Callable[[Subject], Reader | None] | None = None
  missing: Callable[[Method, Data], str] = _no_reason
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
    images.agreement,
    'class agreement',
    scope=IMAGES_ONLY,
    reader=images.class_reader,
    missing=images.no_classes,
  ),
  'frechet': Metric(
    images.frechet_distance, 'Fréchet distance', scope=IMAGES_ONLY, reader=images.feature_reader
  ),
  'precision': Metric(
    images.precision, 'precision', scope=IMAGES_ONLY, reader=images.feature_reader
  ),
  'recall': Metric(images.recall, 'recall', scope=IMAGES_ONLY, reader=images.feature_reader),
  'high_frequency': Metric(
    images.high_frequency,
    'high-frequency energy',
    scope=IMAGES_ONLY,
    reader=images.power_reader,
  ),
  'reconstruction': Metric(
    autoencoding.reconstruction,
    'distance of reconstructions',
    NO_DRAWS,
    IMAGES_ONLY,
    missing=autoencoding.no_reconstructions,
  ),
  'noisy_accuracy': Metric(
    images.noisy_accuracy,
    'accuracy on noisy images',
    NO_DRAWS,
    IMAGES_ONLY,
    missing=images.no_classifier,
  ),
  'modes': Metric(
    modes.modes,
    'modes covered',
    scope=MODES_ONLY,
    reader=modes.mode_reader,
    missing=modes.no_modes,
  ),
  'mode_kl': Metric(
    modes.mode_kl,
    'KL over modes',
    scope=MODES_ONLY,
    reader=modes.mode_reader,
    missing=modes.no_modes,
  ),
  'high_quality': Metric(
    modes.high_quality,
    'high-quality samples',
    scope=MIXTURES_ONLY,
    reader=modes.mode_reader,
    missing=modes.no_modes,
  ),
  'bits_per_dim': Metric(_bits_per_dim, 'bits/dim', NO_DRAWS, missing=_no_likelihood),
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
  'standardised_mse': _of_forecasts(
    'standardised_mse',
    'standardised MSE',
    'Mean squared error of the mean, of series divided by their deviation in training.',
  ),
  'standardised_mae': _of_forecasts(
    'standardised_mae',
    'standardised MAE',
    'Mean absolute error of the median, of series divided by their deviation in training.',
  ),
  'owa': Metric(_owa, 'OWA', FORECASTS, SERIES_ONLY),
  'coverage': _of_forecasts(
    'inside_80', 'coverage of the 80 % interval', 'Share of true values in the 80 % interval.'
  ),
  'nats_per_position': Metric(
    _nats_per_position, 'nats per token or frame', NO_DRAWS, POSITIONS_ONLY, missing=_no_likelihood
  ),
  'accuracy': Metric(texts.accuracy, 'accuracy', NO_DRAWS, TEXT_ONLY, missing=texts.no_predictions),
  'perplexity': Metric(texts.perplexity, 'perplexity', NO_DRAWS, TEXT_ONLY),
  'bits_per_byte': Metric(texts.bits_per_byte, 'bits/byte', NO_DRAWS, TEXT_ONLY),
  'bits_per_character': Metric(texts.bits_per_character, 'bits/character', NO_DRAWS, TEXT_ONLY),
  'distinct': Metric(texts.distinct, 'distinct-2', SAMPLES, TEXT_ONLY, texts.words_reader),
  'self_bleu': Metric(texts.self_bleu, 'self-BLEU', SAMPLES, TEXT_ONLY, texts.words_reader),
  'zipf': Metric(texts.zipf, 'Zipf coefficient', SAMPLES, TEXT_ONLY, texts.words_reader),
  'repetition': Metric(texts.repetition, 'repetition', SAMPLES, TEXT_ONLY, texts.words_reader),
  'looping': Metric(texts.looping, 'share of loops', SAMPLES, TEXT_ONLY, texts.words_reader),
  'sample_perplexity': Metric(
    texts.sample_perplexity, 'perplexity of samples', SAMPLES, TEXT_ONLY, texts.texts_reader
  ),
  'evaluations': Metric(_evaluations, 'network evaluations per sample'),
  'sampling_flops': Metric(_sampling_flops, 'sampling FLOPs', scope=IMAGES_ONLY),
  'seconds_per_sample': Metric(_seconds_per_sample, 'seconds per sample'),
  'parameters': Metric(_parameters, 'parameters', NO_DRAWS),
}
