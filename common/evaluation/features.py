"""Named feature extractors, for distances between sets of images.

A distance is only as good as its features, so its name always says which they are. None of these
is the Inception network, so none of the distances is an FID.
"""

import functools
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from common.config import pick
from common.evaluation import classifiers


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


def _pixels(real: classifiers.LabelledImages) -> Extractor:
  """The pixels themselves."""
  return Extractor(
    'pixels',
    functools.partial(classifiers.as_vectors, levels=real.levels),
    f'{real.x[0].size} pixels in [0, 1]',
  )


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
