"""Samples as a person sees them: images, piano rolls, a page of texts, or plots of forecasts."""

import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np

from common.data import tokenizers
from common.data.music import REST
from common.data.sources import Source
from common.data.spec import DataSpec
from common.domains import forecasts
from common.domains.piano_roll import piano_rolls
from common.files import atomic_write
from common.method import Request
from common.reporting import pictures
from common.reporting.writers import Writer

GRID = 10  # rows and columns of a grid of images
TEXTS = 8  # texts on a page
WINDOWS, DRAWS = 6, 100  # of time series that are forecast, and draws of each
ROLLS = 4  # pieces of music below each other
ROLL_SCALE = 4  # size of a step in training's picture of them
RULE = '\n' + '-' * 72 + '\n'


def request(
  spec: DataSpec, num: int, label: jax.Array | None = None, options: Mapping[str, Any] | None = None
) -> Request:
  """A request for samples that are not conditioned on anything but their class.

  A text begins behind a separator, or a new line (`tokenizers.opening`); music behind rests.
  """
  past = None
  if spec.domain == 'music':
    past = np.full((num, 1, spec.shape[1]), REST, np.int32)
  if spec.domain == 'text':
    past = np.full((num, 1), tokenizers.opening(spec.tokenizer), np.int32)
  return Request(num, label, past=past, options=options or {})


def as_images(spec: DataSpec, x: np.ndarray) -> tuple[np.ndarray, int]:
  """Examples as images [n, height, width, channels], and the levels of these.

  Indices get the colours of their palette; music becomes piano rolls, without its first frame.
  """
  if spec.domain == 'music':
    return piano_rolls(np.asarray(x)[:, 1:], spec.pitches), 256
  if spec.palette is not None:
    return spec.palette.decode(np.asarray(x)), 256
  return np.asarray(x), spec.levels


def texts(spec: DataSpec, x: np.ndarray) -> tuple[str, ...]:
  """Samples as texts; the token that they begin behind is left out.

  Args:
    spec: of domain 'text'.
    x: token ids [num, tokens], from a request as `request` makes it.
  """
  return tuple(spec.tokenizer.decode(row[1:]) for row in np.asarray(x))


def page(several: Sequence[str]) -> str:
  """Texts below each other, with a rule between them."""
  return RULE.join(text.strip('\n') for text in several) + '\n'


def request_in_training(spec: DataSpec, labelled: bool, source: Source) -> Request:
  """What training draws now and then: images with a class per column, texts, music, or forecasts.

  Args:
    spec: of the data.
    labelled: see `common.method.Method`.
    source: a split, of which the first windows are forecast.
  """
  if spec.domain == 'series':
    windows = np.arange(min(WINDOWS, len(source)))
    return forecasts.request(spec, forecasts.repeated(source, windows, DRAWS))
  if spec.domain in ('text', 'music'):
    return request(spec, TEXTS if spec.domain == 'text' else ROLLS)
  classes = min(spec.num_classes, GRID) if labelled else 0
  label = jax.numpy.arange(GRID * GRID) % classes if classes else None
  return request(spec, GRID * GRID, label)


def keep(
  spec: DataSpec,
  x: np.ndarray,
  step: int,
  folder: pathlib.Path,
  writer: Writer,
  asked: Request,
) -> None:
  """Writes what `request_in_training` asked for: FOLDER/STEP.png or FOLDER/STEP.txt, and
  TensorBoard."""
  if spec.domain == 'text':
    text = page(texts(spec, x))
    folder.mkdir(parents=True, exist_ok=True)
    atomic_write(folder / f'{step:08d}.txt', text)
    writer.text(step, 'samples', text)
    return
  if spec.domain == 'series':
    batch = {'x': asked.past, 'label': asked.label}
    grid = forecasts.picture(forecasts.collect(spec, batch, np.asarray(x), DRAWS))
  else:
    images, levels = as_images(spec, x)
    columns, scale = (1, ROLL_SCALE) if spec.domain == 'music' else (GRID, 1)
    grid = pictures.image_grid(images, columns, scale, levels)
  pictures.save_png(folder / f'{step:08d}.png', grid)
  writer.images(step, 'samples', grid)
