"""Metrics of images as functions of the subject of an evaluation."""

import functools
import math

import numpy as np
from jaxtyping import Float

from common.config import ConfigError
from common.data.pipeline import Data, evaluation_batches
from common.evaluation.images import classifiers, frechet, manifolds, spectra
from common.evaluation.images.features import Extractor, extractor
from common.evaluation.likelihood import hits_of
from common.evaluation.measures import Measure, proportion
from common.evaluation.subject import Reader, Subject
from common.method import Method

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


def class_reader(subject: Subject) -> Reader | None:
  """Reads the class of each image, as the classifier sees it."""
  if _no_agreement(subject):
    return None
  return classifiers.agreement_classifier(subject.real).predict


def agreement(subject: Subject) -> Measure:
  """Share of samples that a classifier assigns to the class they were requested for."""
  if reason := _no_agreement(subject):
    return Measure(None, note=reason)
  judge = classifiers.agreement_classifier(subject.real)
  label = subject.samples.label
  hits = int(np.sum(subject.samples.read['agreement'] == label))
  value, error, interval = proportion(hits, len(label))
  accuracy = f'accuracy {judge.accuracy:.1%} on {len(subject.real.test_x)} test images'
  note = f'judged by an {judge.name.upper()} with {accuracy}; n={len(label)}'
  note += _class_note(subject)
  return Measure(value, error, note, interval=interval)


def no_classifier(method: Method, data: Data) -> str:
  """The reason why a model classifies nothing; '' if it does."""
  del data
  return '' if method.noise_levels else 'the model is no classifier'


def noisy_accuracy(subject: Subject) -> Measure:
  """Share of noisy images whose class a classifier recognises, a mean over noise levels σ/α."""
  if reason := no_classifier(subject.method, subject.data):
    return Measure(None, note=reason)
  batches = evaluation_batches(subject.split, subject.settings['batch_size'])
  found = [hits_of(subject.method, subject.params, batch).right for batch in batches]
  right = np.concatenate(found)  # [images, levels]
  # The levels of one image depend on each other: the error is that of the images' means.
  each = right.mean(axis=1)
  error = float(each.std(ddof=1) / math.sqrt(len(each))) if len(each) > 1 else None
  shares = zip(subject.method.noise_levels, right.mean(axis=0), strict=True)
  by_level = ', '.join(f'{share:.3f} at σ/α = {level:g}' for level, share in shares)
  note = f'{subject.settings["split"]} split, n={len(each)}: {by_level}'
  return Measure(float(each.mean()), error, note)


def feature_reader(subject: Subject) -> Reader:
  """Reads the features of each image."""
  if np.count_nonzero(subject.class_counts) < 2 and subject.settings['extractor'] == 'mlp':
    raise ConfigError(
      "evaluation.extractor='mlp' needs data with two classes or more; set it to 'pixels'"
    )
  return extractor_of(subject).apply


def extractor_of(subject: Subject) -> Extractor:
  """What turns images into the features that distances are measured in."""
  return extractor(subject.settings['extractor'], subject.real)


def frechet_distance(subject: Subject) -> Measure:
  """Fréchet distance between samples and training images, in the features of an extractor.

  The floor is the distance between two halves of the training images, each as many as there are
  samples, or half of all. The images to compare with are as many too, or with `settings.reference`
  'all' every one, as in papers; the distance then has less bias than its floor.

  With `settings.sample_sets` above 1, the least of the distances of that many sets of samples
  (Karras et al. 2022, section 2), and its error. The least of several is lower than a single one.
  """
  features = extractor_of(subject)
  real = features.apply(subject.real.x)
  sets = subject.settings['sample_sets']
  found = [_distance_of_set(subject, features, real, number) for number in range(sets)]
  least = min(found, key=lambda measure: measure.value)
  if sets == 1:
    return least
  values = ', '.join(f'{measure.value:.3g}' for measure in found)
  return least._replace(note=f'least of {sets} sets of samples ({values}); {least.note}')


def _distance_of_set(
  subject: Subject, features: Extractor, real: Float[np.ndarray, 'n features'], number: int
) -> Measure:
  """The distance of the set of samples with this number."""
  samples = subject.samples if number == 0 else subject.draw_set(number)
  rows, label = samples.read['frechet'], samples.label
  # Distance and floor must compare sets of the same size: the bias of a distance depends on it.
  half, _ = frechet.halves(subject.real.label, len(rows))
  size, against = len(half), ''
  # The first `size` samples have the classes in the same proportions as all.
  ours, reference = rows[:size], frechet.moments(real[half])
  if subject.settings['reference'] == 'all':
    ours, reference = rows, frechet.moments(real)
    against = f' from {len(real):,} training images'
  value = frechet.gaussian_distance(frechet.moments(ours), reference)
  error = frechet.standard_error(ours, reference, None if label is None else label[: len(ours)])
  floor = frechet.floor(real, subject.real.label, size)
  name = f'FD({features.name}, n={len(ours)}){against}'
  of = f' of n={size}' if against else ''
  note = f'{name}, floor {floor:.3g}{of}; {features.note}{_class_note(subject)}'
  return Measure(value, error, note)


def precision(subject: Subject) -> Measure:
  """Share of samples that are as near to a real image as its third nearest neighbour is.

  Kynkäänniemi et al. 2019, eq. 2, between as many samples as real images. The error is that of the
  share of samples, for fixed real images.
  """
  return _inside('precision', subject)


def recall(subject: Subject) -> Measure:
  """Share of real images that are as near to a sample as its third nearest neighbour is.

  Kynkäänniemi et al. 2019, eq. 3. The error is that of the share of real images, for fixed samples.
  """
  return _inside('recall', subject)


def _inside(name: str, subject: Subject) -> Measure:
  """Precision or recall, with its value between two halves of the real images in the note."""
  half, other = frechet.halves(subject.real.label, len(subject.samples.read[name]))
  size = len(half)
  if size <= manifolds.NEIGHBOURS:
    return Measure(None, note=f'needs more than {manifolds.NEIGHBOURS} images of each kind')
  features = extractor_of(subject)
  real, second = (features.apply(subject.real.x[part]) for part in (half, other))
  ours = subject.samples.read[name][:size]
  if name == 'precision':
    found, ceiling = manifolds.covered(ours, real), manifolds.covered(second, real)
  else:
    found, ceiling = manifolds.covered(real, ours), manifolds.covered(real, second)
  value, error, interval = proportion(int(found.sum()), size)
  of = f'{name}({features.name}, k={manifolds.NEIGHBOURS}, n={size})'
  note = f'{of}, {ceiling.mean():.3f} between halves of the real images; {features.note}'
  return Measure(value, error, note + _class_note(subject), interval=interval)


def power_reader(subject: Subject) -> Reader:
  """Reads the power of each image at high frequencies."""
  return functools.partial(spectra.high_frequency_power, levels=subject.real.levels)


def high_frequency(subject: Subject) -> Measure:
  """Mean power beyond half of the Nyquist frequency, relative to that of the training images.

  1: as sharp as they are; below 1: blurrier; above 1: noisier. See Durall et al. 2020.
  """
  real = spectra.high_frequency_power(subject.real.x, subject.real.levels)
  if not real.mean() > 0:
    return Measure(None, note='the real images have no high frequencies')
  ours = subject.samples.read['high_frequency']
  value, error = spectra.ratio_of_means(ours, real)
  note = f'relative to {len(real)} real images; 1: as sharp, below: blurrier; n={len(ours)}'
  return Measure(value, error, note + _class_note(subject))


def _class_note(subject: Subject) -> str:
  """A note on the classes of the samples, if the data have some far oftener than others."""
  counts = subject.class_counts[subject.class_counts > 0]
  if not subject.method.labelled or not len(counts) or counts.max() < UNEQUAL * counts.min():
    return ''
  return f'; classes as frequent as in training ({counts.min():,} to {counts.max():,} examples)'
