"""Which modes of the data samples are in, and how evenly: mode collapse, measured.

Metz et al. 2017 (Unrolled GANs) and Srivastava et al. 2017 (VEEGAN) count the modes that have at
least one sample, and compare the samples' distribution over modes with that of the data.
"""

import functools
import math

import numpy as np
from jaxtyping import Float, Int, UInt8

from common.data.modes import Modes
from common.data.pipeline import Data
from common.data.sources import Source
from common.evaluation.images import classifiers
from common.evaluation.measures import Measure, proportion
from common.evaluation.subject import REAL_EXAMPLES, Reader, Subject
from common.method import Method

NO_MODES = 'the modes of the data are not known'
DEVIATIONS = 3.0  # from a centre, within which a point is of its mode (Srivastava et al. 2017)
NONE = -1  # the mode of a point that is far from every centre


def no_modes(method: Method, data: Data) -> str:
  """The reason why modes cannot be counted; '' if they can."""
  del method
  return '' if data.spec.modes is not None else NO_MODES


def mode_reader(subject: Subject) -> Reader | None:
  """Reads the mode of each sample, or NONE."""
  modes = subject.data.spec.modes
  if modes is None:
    return None
  if modes.centres:
    return functools.partial(near_mode, modes)
  return functools.partial(stacked_mode, modes, _judge(subject))


def near_mode(modes: Modes, points: Float[np.ndarray, 'n *axes']) -> Int[np.ndarray, 'n']:
  """The mode of each point: the nearest Gaussian, if that is near enough."""
  nearest, distance = modes.nearest(points.reshape(len(points), -1))
  return np.where(distance <= DEVIATIONS, nearest, NONE)


def stacked_mode(
  modes: Modes,
  judge: classifiers.Classifier,
  images: UInt8[np.ndarray, 'n height width channels'],
) -> Int[np.ndarray, 'n']:
  """The mode of each image: the class of each of its channels, as a classifier sees it."""
  channels = [judge.predict(images[..., i : i + 1]) for i in range(len(modes.classes))]
  return modes.mode_of(np.stack(channels, axis=-1))


def _judge(subject: Subject) -> classifiers.Classifier:
  """A classifier of single channels, fitted on the first channel of the training images.

  The channels hold the same digits in other orders: one has them all.
  """
  splits = subject.originals.splits
  parts = [_channel(subject, splits[name]) for name in ('train', subject.settings['split'])]
  (x, label, levels), (test_x, test_label, _) = parts
  real = classifiers.labelled_images(x, label, test_x, test_label, levels)
  return classifiers.agreement_classifier(real)


def _channel(subject: Subject, source: Source) -> tuple[np.ndarray, np.ndarray, int]:
  """The first channel of some examples, its classes, and the number of levels."""
  spec = subject.originals.spec
  examples = source.gather(np.arange(min(len(source), REAL_EXAMPLES)))
  images, levels = subject.domain.as_images(spec, examples['x'])
  return images[..., :1], spec.modes.classes_of(examples['mode'])[:, 0], levels


def probabilities(data: Data) -> Float[np.ndarray, 'modes']:
  """The probability of each mode in the data.

  Gaussians are equally likely. The channels of stacked images are independent, each with the
  classes as often as the training split.
  """
  modes = data.spec.modes
  if modes.centres:
    return np.full(modes.number, 1 / modes.number)
  source = data.splits['train']
  classes = modes.classes_of(source.gather(np.arange(len(source)))['mode'])
  joint = np.ones(1)
  for column, number in zip(classes.T, modes.classes, strict=True):
    joint = np.outer(joint, np.bincount(column, minlength=number) / len(column)).ravel()
  return joint


def expected_covered(p: Float[np.ndarray, 'modes'], num: int) -> float:
  """The number of modes that `num` samples of the data cover on average: Σ 1 - (1 - p)ⁿ."""
  return float(np.sum(1 - (1 - p) ** num))


def covered_error(counts: Int[np.ndarray, 'modes']) -> float:
  """Standard error of the number of modes covered, by the jackknife; not too small on average.

  Without one sample, a mode is lost if the sample is its only one. The jackknife overestimates a
  variance (Efron & Stein 1981).
  """
  single, num = int(np.sum(counts == 1)), int(counts.sum())
  return math.sqrt(single * (1 - single / num)) if num else 0.0


def divergence(
  counts: Int[np.ndarray, 'modes'], p: Float[np.ndarray, 'modes']
) -> tuple[float, float]:
  """KL(q ‖ p) of the distribution q of counted samples, in nats, and its standard error.

  The error is that of the delta method, of first order: it vanishes where q = p.
  """
  kept = counts > 0
  q = counts[kept] / counts.sum()
  surprise = np.log(q / p[kept])
  value = float(np.sum(q * surprise))
  return value, math.sqrt(np.sum(q * (surprise - value) ** 2) / counts.sum())


def expected_divergence(p: Float[np.ndarray, 'modes'], num: int) -> float:
  """The mean of `divergence` for `num` samples of the data: Σ E[(k/n) log(k / (n p))].

  About (modes - 1) / (2 n) if n is large: a perfect model does not reach 0.
  """
  from scipy import stats

  total = 0.0
  for value, times in zip(*np.unique(p[p > 0], return_counts=True), strict=True):
    # k is binomial; twelve standard deviations hold all that float64 can see of it.
    reach = 12 * math.sqrt(num * value * (1 - value)) + 30
    low, high = max(1, math.floor(num * value - reach)), min(num, math.ceil(num * value + reach))
    k = np.arange(low, high + 1)
    share_of = k / num
    terms = stats.binom.pmf(k, num, value) * share_of * np.log(share_of / value)
    total += times * float(terms.sum())
  return total


def _counts(name: str, subject: Subject) -> Int[np.ndarray, 'modes']:
  """The number of samples in each mode."""
  found = subject.samples.read[name]
  return np.bincount(found[found != NONE], minlength=subject.data.spec.modes.number)


def _how(subject: Subject) -> str:
  """How samples were assigned to modes, for notes."""
  if subject.data.spec.modes.centres:
    return f'within {DEVIATIONS:g} standard deviations of a centre'
  judge = _judge(subject)
  return f'each channel judged by an {judge.name.upper()} with accuracy {judge.accuracy:.1%}'


def modes(subject: Subject) -> Measure:
  """Number of modes with at least one sample (Metz et al. 2017; Srivastava et al. 2017)."""
  if reason := no_modes(subject.method, subject.data):
    return Measure(None, note=reason)
  counts, num = _counts('modes', subject), len(subject.samples.read['modes'])
  expected = expected_covered(probabilities(subject.originals), num)
  note = f'of {len(counts):,} modes; n={num}, of which a perfect model covers {expected:.4g}'
  return Measure(float(np.count_nonzero(counts)), covered_error(counts), f'{note}; {_how(subject)}')


def mode_kl(subject: Subject) -> Measure:
  """KL(q ‖ p) of the samples' distribution q over modes from that of the data, in nats.

  Metz et al. 2017; Srivastava et al. 2017.
  """
  if reason := no_modes(subject.method, subject.data):
    return Measure(None, note=reason)
  counts = _counts('mode_kl', subject)
  num, p = int(counts.sum()), probabilities(subject.originals)
  if not num:
    return Measure(None, note='no sample is in a mode')
  value, error = divergence(counts, p)
  floor = expected_divergence(p, num)
  note = f'n={num} samples in {len(counts):,} modes, floor {floor:.3g} (a perfect model)'
  return Measure(value, error, f'{note}; {_how(subject)}')


def high_quality(subject: Subject) -> Measure:
  """Share of samples within three standard deviations of a Gaussian's centre.

  Srivastava et al. 2017.
  """
  if reason := no_modes(subject.method, subject.data):
    return Measure(None, note=reason)
  from scipy import stats

  found = subject.samples.read['high_quality']
  value, error, interval = proportion(int(np.sum(found != NONE)), len(found))
  # The squared distance is χ² with as many degrees of freedom as there are coordinates.
  perfect = stats.chi2.cdf(DEVIATIONS**2, len(subject.data.spec.modes.centres[0]))
  note = f'{_how(subject)}; a perfect model: {perfect:.3f}; n={len(found)}'
  return Measure(value, error, note, interval=interval)
