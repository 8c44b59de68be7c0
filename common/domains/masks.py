"""Masks of image tasks: which pixels are known, and which a task fills in."""

import pathlib
from collections.abc import Callable

import numpy as np
from jaxtyping import Bool, Float
from PIL import Image

from common.data.spec import DataSpec
from common.files import check_regular

Coordinate = Float[np.ndarray, 'height width']
Generator = np.random.Generator
Hidden = Bool[np.ndarray, 'height width']


def _left(y: Coordinate, x: Coordinate, share: float, rng: Generator) -> Hidden:
  """A strip at the left."""
  return x < share


def _right(y: Coordinate, x: Coordinate, share: float, rng: Generator) -> Hidden:
  """A strip at the right."""
  return x >= 1 - share


def _top(y: Coordinate, x: Coordinate, share: float, rng: Generator) -> Hidden:
  """A strip at the top."""
  return y < share


def _bottom(y: Coordinate, x: Coordinate, share: float, rng: Generator) -> Hidden:
  """A strip at the bottom."""
  return y >= 1 - share


def _centre(y: Coordinate, x: Coordinate, share: float, rng: Generator) -> Hidden:
  """A square in the middle."""
  return np.maximum(abs(y - 0.5), abs(x - 0.5)) < share / 2


def _border(y: Coordinate, x: Coordinate, share: float, rng: Generator) -> Hidden:
  """Everything except a square in the middle."""
  return np.maximum(abs(y - 0.5), abs(x - 0.5)) >= (1 - share) / 2


def _random(y: Coordinate, x: Coordinate, share: float, rng: Generator) -> Hidden:
  """Pixels anywhere, as a share of all pixels."""
  return (rng.permutation(y.size) < share * y.size).reshape(y.shape)


# The pixels that a mask hides, from their coordinates in [0, 1] and the hidden share of each side.
HIDDEN: dict[str, Callable[[Coordinate, Coordinate, float, Generator], Hidden]] = {
  'left': _left,
  'right': _right,
  'top': _top,
  'bottom': _bottom,
  'centre': _centre,
  'border': _border,
  'random': _random,
}


def read_mask(text: str, spec: DataSpec, seed: int) -> Bool[np.ndarray, 'height width channels']:
  """The known pixels, from a description of the pixels to fill in.

  Args:
    text: NAME or NAME:SHARE, where NAME is a key of `HIDDEN`, and SHARE is the hidden
      share of each side (of all pixels, if random), by default 0.5; or a file: a .png whose white,
      or a .npy whose ones are filled in.
    spec: the data; a file must have the height and width of its images.
    seed: chooses the pixels of a random mask.

  Raises:
    ValueError: for an unknown name, a share outside (0, 1), or a file of another shape.
  """
  height, width, _ = spec.shape
  if text.endswith(('.png', '.npy')):
    hidden = _read_hidden(pathlib.Path(text), spec.shape)
    return np.broadcast_to(~hidden, spec.shape)
  name, share = _parse(text)
  # Coordinates of the centres of the pixels.
  y, x = np.meshgrid(*((np.arange(n) + 0.5) / n for n in (height, width)), indexing='ij')
  hidden = HIDDEN[name](y, x, share, np.random.default_rng(seed))
  return np.broadcast_to(~hidden[..., None], spec.shape)


def _parse(text: str) -> tuple[str, float]:
  """('left', 0.25) from 'left:0.25'."""
  name, _, number = text.partition(':')
  try:
    share = float(number or 0.5)
  except ValueError:
    share = -1.0  # outside (0, 1): refused below
  if name not in HIDDEN or not 0 < share < 1:
    raise ValueError(
      f'--mask={text!r}: write one of {", ".join(HIDDEN)}, followed by :SHARE in (0, 1) '
      'unless it is 0.5; or the name of a .png or .npy file'
    )
  return name, share


def _read_hidden(
  path: pathlib.Path, shape: tuple[int, ...]
) -> Bool[np.ndarray, 'height width channels_or_1']:
  """The pixels to fill in, from a file."""
  check_regular(path)
  if path.suffix == '.png':
    with Image.open(path) as image:
      values = np.asarray(image.convert('L')) // 128
  else:
    try:
      values = np.load(path, allow_pickle=False)
    except (ValueError, EOFError) as error:
      raise ValueError(
        f'--mask={path} must be a complete .npy file of numbers ({error})'
      ) from error
  values = values[..., None] if values.ndim == 2 else values
  if values.shape not in ((*shape[:2], 1), shape):
    raise ValueError(
      f'--mask={path} has shape {values.shape}; the images are {shape}: use a file of shape '
      f'{shape[:2]}, or {shape} for a mask per channel'
    )
  if not np.isin(values, (0, 1)).all():
    raise ValueError(f'--mask={path} must hold 0 (known) and 1 (to be filled in), no other values')
  return values.astype(bool)
