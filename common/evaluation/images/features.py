"""Named feature extractors, for distances between sets of images.

A distance is only as good as its features, so its name always says which they are. None of these
is the Inception network, so none of the distances is an FID.
"""

import functools
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, UInt8

from common.config import pick
from common.evaluation.images import classifiers


class Extractor(NamedTuple):
  """Features of uint8 images [n, height, width, channels].

  Attributes:
    name: its name next to a number.
    apply: images -> features [n, dim].
    note: what a reader should know about it.
  """

  name: str
  apply: Callable[[np.ndarray], np.ndarray]
  note: str


# Pixels per side that `pixels` compares. The time of a distance grows as the cube of the number of
# features: 3,072 pixels of 32×32 take minutes, their 768 averages less than a second.
MAX_SIDE = 16


def _pixels(real: classifiers.LabelledImages) -> Extractor:
  """The pixels themselves, or averages of neighbours: at most MAX_SIDE per side."""
  height, width, channels = real.x.shape[1:]
  rows, columns = min(height, MAX_SIDE), min(width, MAX_SIDE)
  averaged = (rows, columns) != (height, width)
  return Extractor(
    f'pixels {rows}×{columns}' if averaged else 'pixels',
    functools.partial(averages, rows=rows, columns=columns, levels=real.levels),
    f'{rows * columns * channels} {"averages of " if averaged else ""}pixels in [0, 1]',
  )


def averages(
  images: UInt8[np.ndarray, 'n height width channels'], rows: int, columns: int, levels: int
) -> Float[np.ndarray, 'n dim']:
  """Images in [0, 1], averaged over the areas of a grid of `rows` × `columns`, as vectors."""
  x = classifiers.as_vectors(images, levels).reshape(images.shape)
  down, across = area_weights(images.shape[1], rows), area_weights(images.shape[2], columns)
  return np.einsum('rh,nhwc,kw->nrkc', down, x, across, optimize=True).reshape(len(x), -1)


def area_weights(size: int, cells: int) -> Float[np.ndarray, 'cells size']:
  """The weight of each pixel of a line in the average of each of `cells` equal parts of it."""
  ends = np.arange(cells + 1)[:, None] * (size / cells)
  pixel = np.arange(size)
  overlap = np.minimum(ends[1:], pixel + 1) - np.maximum(ends[:-1], pixel)
  return (np.maximum(overlap, 0) * cells / size).astype(np.float32)


def _mlp(real: classifiers.LabelledImages) -> Extractor:
  """The last hidden layer of a classifier fitted on the training split; needs classes."""
  classifier = classifiers.fit('mlp', real)
  dim = classifier.model.coefs_[-1].shape[0]  # inputs of the output layer
  return Extractor(
    'mlp',
    functools.partial(classifiers.penultimate, classifier),
    f'{dim} activations of an MLP with test accuracy {classifier.accuracy:.1%}',
  )


def _auto(real: classifiers.LabelledImages) -> Extractor:
  """`mlp` if the data has two classes or more, otherwise `pixels`."""
  return (_mlp if len(np.unique(real.label)) > 1 else _pixels)(real)


EXTRACTORS = {
  'auto': _auto,
  'pixels': _pixels,
  'mlp': _mlp,
}


def extractor(name: str, real: classifiers.LabelledImages) -> Extractor:
  """The extractor `name`; a learned one is fitted on `real`.

  Raises:
    ConfigError: for an unknown name.
  """
  return pick(EXTRACTORS, name, 'extractor')(real)
