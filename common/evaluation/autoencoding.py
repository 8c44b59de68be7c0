"""Measures of autoencoders: of a VAE, or of the first stage of a model of latents."""

import numpy as np
from jaxtyping import Float, Int, Shaped

from common.data.pipeline import Data, evaluation_batches
from common.data.sources import Source
from common.evaluation.images import frechet
from common.evaluation.images.metrics import extractor_of
from common.evaluation.measures import Measure
from common.evaluation.subject import Subject
from common.method import Method, Request
from common.reporting.progress import reported

NO_RECONSTRUCTIONS = 'the model is neither an autoencoder nor one of latents'
OPTIONS = {'task': 'reconstruct', 'pixels': 'mean'}  # as a first stage decodes


def pixel_nats(subject: Subject) -> Float[np.ndarray, 'num'] | None:
  """-log p(x|z) of each image x of the evaluated split and its codes z, in nats.

  -log p(z) - log p(x|z) is an upper bound of -log p(x), because p(x) is a sum over all z.

  Returns:
    None if latents or images are numbers, whose densities do not add up with probabilities, or the
    first stage has no distribution of pixels.
  """
  latents = subject.data.spec.latents
  if latents is None or not latents.first_stage.distribution:
    return None
  if not (subject.data.spec.levels and latents.images.levels):
    return None
  images, size = _images(subject), subject.settings['batch_size']
  batches = reported(evaluation_batches(images, size), -(-len(images) // size), 'decoding')
  found = [
    latents.first_stage.nats(codes['x'], batch['x'])
    for codes, batch in zip(evaluation_batches(subject.split, size), batches, strict=True)
  ]
  return np.concatenate(found).astype(np.float64)[: len(images)]


def _images(subject: Subject) -> Source:
  """The images of the evaluated split."""
  return subject.originals.splits[subject.settings['split']]


def no_reconstructions(method: Method, data: Data) -> str:
  """The reason why there are no reconstructions; '' if there are."""
  return '' if method.reconstructs or data.spec.latents is not None else NO_RECONSTRUCTIONS


def reconstruction(subject: Subject) -> Measure:
  """Fréchet distance between reconstructed images of the split and training images.

  Of a model of latents, the reconstructions are those of its first stage. The note has the distance
  of the images themselves.
  """
  if reason := no_reconstructions(subject.method, subject.data):
    return Measure(None, note=reason)
  images = _images(subject)
  half, _ = frechet.halves(subject.real.label, min(subject.settings['num_samples'], len(images)))
  if len(half) < frechet.MIN_SAMPLES:
    return Measure(None, note=f'needs at least {frechet.MIN_SAMPLES} images of each split')
  index = np.arange(len(half)) * len(images) // max(len(half), 1)  # evenly over the split
  found = extractor_of(subject)
  reference = frechet.moments(found.apply(subject.real.x[half]))
  ours = found.apply(_reconstructed(subject, index))
  originals = subject.domain.readable(subject.originals.spec, images.gather(index)['x'])
  itself = frechet.moments(found.apply(originals))
  value = frechet.gaussian_distance(frechet.moments(ours), reference)
  note = f'FD({found.name}, n={len(half)}), {subject.settings["split"]} split; of the images '
  note += f'themselves {frechet.gaussian_distance(itself, reference):.3g}; {found.note}'
  return Measure(value, frechet.standard_error(ours, reference), note)


def _reconstructed(
  subject: Subject, index: Int[np.ndarray, 'num']
) -> Shaped[np.ndarray, 'num height width channels']:
  """Reconstructions of some images of the split, as metrics read them."""
  spec = subject.data.spec
  if spec.latents is not None:
    return subject.domain.readable(spec, subject.split.gather(index)['x'])
  size, parts = subject.settings['batch_size'], []
  for start in reported(range(0, len(index), size), -(-len(index) // size), 'reconstructing'):
    # All batches have the same size, so that the program compiles once.
    part = index[np.minimum(np.arange(start, start + size), len(index) - 1)]
    given = subject.split.gather(part)
    label = given['label'] if subject.method.labelled else None
    request = Request(size, label, past=given['x'], options=OPTIONS)
    parts.append(np.asarray(subject.method.draw(subject.params, subject.key, request).x))
  return subject.domain.readable(spec, np.concatenate(parts)[: len(index)])
