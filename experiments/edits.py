"""Tasks other than drawing samples, shown in one picture: what was given, the mask, the results."""

import pathlib
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Int, UInt8
from PIL import Image

from common.data.spec import DataSpec
from common.domains import showing
from common.method import Request
from common.reporting import pictures
from experiments import families, options
from experiments.families import Edit
from experiments.runs import Run

FILL = (0, 132, 209)  # the colour of pixels that are to be filled in
HIDDEN = {  # what a mask hides: (y, x in [0, 1] of each pixel, share) -> bool
  'left': lambda y, x, share: x < share,
  'right': lambda y, x, share: x >= 1 - share,
  'top': lambda y, x, share: y < share,
  'bottom': lambda y, x, share: y >= 1 - share,
  'centre': lambda y, x, share: np.maximum(abs(y - 0.5), abs(x - 0.5)) < share / 2,
  'border': lambda y, x, share: np.maximum(abs(y - 0.5), abs(x - 0.5)) >= (1 - share) / 2,
}


class Given(NamedTuple):
  """Images to edit, with their classes (None without) and where they hold (None: everywhere)."""

  x: UInt8[np.ndarray, 'n height width channels']
  label: Int[np.ndarray, 'n'] | None
  known: Bool[np.ndarray, 'height width channels'] | None


class Edited(NamedTuple):
  """What came of a task: what it was given, a line about it, and its results."""

  given: Given
  title: str
  results: UInt8[np.ndarray, 'draws n height width channels']


def perform(
  run: Run,
  name: str,
  *,
  num: int = 10,
  draws: int = 3,
  label: str | None = None,
  mask: str | None = None,
  seed: int = 0,
  settings: Mapping[str, Any] | None = None,
) -> Edited:
  """Does a task with images of the test split.

  Args:
    run: a trained model.
    name: of the task; what there is depends on the model's family (`families.FAMILIES`).
    num: how many images, chosen by the seed.
    draws: results of each, where the task is random.
    label: class of the results (see `options.classes`); None: those of the images.
    mask: what is to be filled in (see `read_mask`); None: the task's own default.
    seed: of all randomness.
    settings: sampler options.

  Raises:
    ValueError: for an unknown task, a mask where none is taken or that does not fit, too many
      images, and what the method refuses.
  """
  edit = families.edit(run.config, name)
  if num < 2 and name in WHOLE:
    raise ValueError(f'--num={num}: --task={name} needs at least 2')
  given = _given(run, name, edit, num, mask, seed)
  results, evaluations = [], 0
  for draw in range(draws if edit.random else 1):
    if label is None and given.label is not None and run.method.labelled:
      wanted = WHOLE.get(name, lambda own, draw: own)(given.label, draw)
    else:
      wanted = options.classes(label, num, run.data.spec, run.method.labelled)
    request = Request(
      num,
      None if wanted is None else jnp.asarray(wanted),
      past=jnp.asarray(given.x) if 'past' in edit.needs else None,
      mask=None if given.known is None else jnp.asarray(given.known, jnp.uint8),
      options={**edit.options, **(settings or {})},
    )
    key = jax.random.fold_in(jax.random.key(seed), draw)
    samples = run.method.sample(run.params, key, request)
    results.append(np.asarray(samples.x))
    evaluations = samples.evaluations
  hidden = f', --mask={mask or edit.mask} (blue: to fill in)' if 'mask' in edit.needs else ''
  title = f'{name}{hidden}, step {run.step}, {evaluations} network evaluations'
  return Edited(given, title, np.stack(results))


# Tasks whose images belong together, with the classes of each: an interpolation takes the class of
# the nearer end, a trajectory is one sample's.
WHOLE = {
  'interpolate': lambda own, draw: np.where(np.arange(len(own)) * 2 < len(own), own[0], own[-1]),
  'trajectory': lambda own, draw: np.full(len(own), own[draw % len(own)]),
}


def _given(run: Run, name: str, edit: Edit, num: int, mask: str | None, seed: int) -> Given:
  """Images of the test split and the mask."""
  test = run.data.splits['test']
  if num > len(test):
    raise ValueError(f'--num={num}: the test split has only {len(test)} images')
  if mask is not None and 'mask' not in edit.needs:
    raise ValueError(f'--mask={mask!r}: --task={name} takes none')
  images = test.gather(np.random.default_rng(seed).permutation(len(test))[:num])
  known = read_mask(mask or edit.mask, run.data.spec, seed) if 'mask' in edit.needs else None
  return Given(images['x'], images.get('label'), known)


def read_mask(text: str, spec: DataSpec, seed: int) -> Bool[np.ndarray, 'height width channels']:
  """Where pixels are known, from what is to be filled in.

  Args:
    text: NAME or NAME:SHARE, a name of HIDDEN or 'random', the share of each side (of the pixels,
      if random), by default a half; or a file: a .png whose white, or a .npy whose ones are to be
      filled in.
    spec: of the data; a file must have its height and width.
    seed: of a random mask.

  Raises:
    ValueError: for an unknown name, a share outside (0, 1), or a file of another shape.
  """
  height, width, _ = spec.shape
  if text.endswith(('.png', '.npy')):
    hidden = _mask_file(pathlib.Path(text), spec.shape)
    return np.broadcast_to(~hidden, spec.shape)
  name, _, number = text.partition(':')
  try:
    share = float(number or 0.5)
  except ValueError:
    share = -1.0
  if name not in (*HIDDEN, 'random') or not 0 < share < 1:
    known = ', '.join([*HIDDEN, 'random'])
    raise ValueError(
      f'--mask={text!r}: write one of {known}, with :SHARE in (0, 1) if not 0.5, or a .png or .npy'
    )
  if name == 'random':
    order = np.random.default_rng(seed).permutation(height * width)
    hidden = (order < share * order.size).reshape(height, width)
  else:
    y, x = np.meshgrid(*((np.arange(n) + 0.5) / n for n in (height, width)), indexing='ij')
    hidden = HIDDEN[name](y, x, share)
  return np.broadcast_to(~hidden[..., None], spec.shape)


def _mask_file(path: pathlib.Path, shape: tuple[int, ...]) -> np.ndarray:
  """Where a file says that pixels are to be filled in: bool [height, width, 1 or channels]."""
  if path.suffix == '.png':
    with Image.open(path) as image:
      values = np.asarray(image.convert('L')) // 128
  else:
    values = np.load(path, allow_pickle=False)
  values = values[..., None] if values.ndim == 2 else values
  if values.shape not in ((*shape[:2], 1), shape):
    raise ValueError(
      f'--mask={path} is of shape {values.shape}; the images are {shape}: give '
      f'[{shape[0]}, {shape[1]}], alone or with their channels'
    )
  if not np.isin(values, (0, 1)).all():
    raise ValueError(f'--mask={path} holds other values than 0 (known) and 1 (to be filled in)')
  return values.astype(bool)


def _input(given: Given, levels: int) -> list:
  return [('input', pictures.to_rgb(given.x, levels))]


def _masked(given: Given, levels: int) -> list:
  """The images, and what is left of them: a pixel that no channel is known of in a colour."""
  (caption, images) = _input(given, levels)[0]
  shown = np.where(given.known.any(-1, keepdims=True), images, np.uint8(FILL))
  return [(caption, images), ('given', shown)]


def _grey(given: Given, levels: int) -> list:
  (caption, images) = _input(given, levels)[0]
  grey = np.round(images.mean(-1, keepdims=True)).astype(np.uint8)
  return [(caption, images), ('given', np.broadcast_to(grey, images.shape))]


def _ends(given: Given, levels: int) -> list:
  (_, images) = _input(given, levels)[0]
  shown = np.full(images.shape, 255, np.uint8)
  shown[[0, -1]] = images[[0, -1]]
  return [('ends', shown)]


SHOWN: dict[str, Callable[[Given, int], list]] = {
  'inpaint': _masked,
  'repaint': _masked,
  'complete': _masked,
  'colourise': _grey,
  'sdedit': _input,
  'reconstruct': _input,
  'interpolate': _ends,
  'trajectory': lambda given, levels: [],
}


def picture(name: str, edited: Edited, spec: DataSpec, scale: int) -> UInt8[np.ndarray, 'h w 3']:
  """One picture of a task: what was given, its mask, and the results.

  Args:
    name: of the task.
    edited: from `perform`.
    spec: of the data.
    scale: size of a pixel.
  """
  x, levels = showing.as_images(spec, edited.given.x)
  rows = SHOWN[name](edited.given._replace(x=x), levels)
  for number, x in enumerate(showing.as_images(spec, edited.results)[0], 1):
    caption = 'result' if len(edited.results) == 1 else f'result {number}'
    rows.append((caption, pictures.to_rgb(x, levels)))
  return pictures.captioned_rows(edited.title, rows, scale)
