"""Samples made visible: what training, evaluation and studies show of them."""

import pathlib
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Int, UInt8

from common.files import atomic_write
from common.reporting import pictures

NO_IMAGES = np.zeros((0, 1, 1, 1), np.uint8)


class EvaluationDraws(NamedTuple):
  """The samples and forecasts of an evaluation, for `Domain.evaluation_display`.

  Attributes:
    x: the samples that `Domain.shown` names; None if no metric needed samples.
    label: the classes that were requested for them, or None.
    forecasts: `common.domains.forecasts.draws.Forecasts`; None if no metric scored forecasts.
  """

  x: np.ndarray | None = None
  label: Int[np.ndarray, 'n'] | None = None
  forecasts: Any = None


class Display(NamedTuple):
  """Samples made visible: a grid of images, a text, or a plot. Empty by default.

  Attributes:
    images: the samples as images, in the order of the grid.
    label: the classes that were requested for them, or None. Each class then has rows of its own.
    columns: images in a row of the grid.
    levels: the images hold integers in [0, levels).
    class_names: names of the classes, which the picture shows; empty if there are none.
    text: a page of text.
    plot: a finished picture.
  """

  images: UInt8[np.ndarray, 'n height width channels'] = NO_IMAGES
  label: Int[np.ndarray, 'n'] | None = None
  columns: int = 1
  levels: int = 256
  class_names: tuple[str, ...] = ()
  text: str = ''
  plot: UInt8[np.ndarray, 'rows cols 3'] | None = None

  def picture(self, scale: int = 0) -> UInt8[np.ndarray, 'rows cols 3'] | None:
    """The plot, or the grid of images with its pixels enlarged `scale` times; None if empty.

    Without a scale, small images are enlarged until they are large enough to see.
    """
    if self.plot is not None or not len(self.images):
      return self.plot
    scale = scale or pictures.visible_scale(self.images)
    if self.label is None or not self.class_names:
      return pictures.image_grid(self.images, self.columns, scale, self.levels)
    return pictures.captioned_rows('', list(self._rows()), scale)

  def _rows(self) -> Iterator[tuple[str, UInt8[np.ndarray, 'n height width 3']]]:
    """Rows of images of one class, with its name at the first of them."""
    images = pictures.to_rgb(self.images, self.levels)
    for label in np.unique(self.label):
      chosen = images[np.asarray(self.label) == label]
      for start in range(0, len(chosen), self.columns):
        name = '' if start else self.class_names[label]
        yield name, chosen[start : start + self.columns]

  def strip(self, number: int = 10) -> UInt8[np.ndarray, 'rows cols 3'] | None:
    """One row of images, the first of each class if there are classes; None if there are none."""
    if not len(self.images):
      return None
    chosen = np.arange(len(self.images))
    if self.label is not None:
      _, chosen = np.unique(self.label, return_index=True)
    return pictures.image_grid(self.images[chosen[:number]], number, 1, self.levels)

  def save(self, folder: pathlib.Path, name: str, scale: int = 0) -> None:
    """Writes FOLDER/NAME.png if there is a picture, FOLDER/NAME.txt if there is a text."""
    picture = self.picture(scale)
    if picture is not None:
      pictures.save_png(folder / f'{name}.png', picture)
    if self.text:
      atomic_write(folder / f'{name}.txt', self.text)
