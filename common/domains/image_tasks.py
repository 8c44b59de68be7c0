"""Tasks on given images, shown in one picture: the input, its mask, and the results."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Int, UInt8

from common.config import pick
from common.domains.base import BATCH, TrainedModel
from common.domains.labels import parse_label
from common.domains.masks import read_mask
from common.method import Request
from common.reporting import pictures

FILL = (0, 132, 209)  # the colour of pixels that are to be filled in
Rows = list[tuple[str, UInt8[np.ndarray, 'n height width 3']]]  # captions and images


class TaskInput(NamedTuple):
  """The input of a task.

  Attributes:
    x: images.
    label: their classes; None if the data have none.
    known: the pixels that stay as they are; None: the task takes no mask.
  """

  x: UInt8[np.ndarray, 'n height width channels']
  label: Int[np.ndarray, 'n'] | None
  known: Bool[np.ndarray, 'height width channels'] | None


class TaskResult(NamedTuple):
  """The result of a task: its input, a title, and the images that came out."""

  given: TaskInput
  title: str
  images: UInt8[np.ndarray, 'draws n height width channels']


def perform(
  trained: TrainedModel,
  name: str,
  *,
  num: int = 10,
  draws: int = 3,
  label: str | None = None,
  mask: str | None = None,
  seed: int = 0,
  options: Mapping[str, Any] | None = None,
) -> TaskResult:
  """Performs a task on images of the test split.

  Args:
    trained: the model.
    name: the task, a key of `trained.tasks`.
    num: number of images, chosen by the seed.
    draws: number of results for each image, if the task is random.
    label: class of the results (see `parse_label`); None: the classes of the images.
    mask: the pixels to fill in (see `read_mask`); None: the task's own default.
    seed: determines all random numbers.
    options: sampler settings that replace those of the config.

  Raises:
    ValueError: for an unknown task, a mask that the task does not take or that does not fit, too
      many images, and anything that the method refuses.
  """
  given = _given(trained, name, num, mask, seed)
  task, results, evaluations = trained.tasks[name], [], 0
  for draw in range(draws if task.random else 1):
    request = _request(trained, name, given, _labels(trained, name, given, label, draw), options)
    # One key per draw: draws of an image differ, and asking for more draws keeps the first ones.
    key = jax.random.fold_in(jax.random.key(seed), draw)
    samples = trained.draw_batches(key, request)
    results.append(np.asarray(samples.x))
    evaluations = samples.evaluations
  hidden = f', --mask={mask or task.mask} (blue: to fill in)' if 'mask' in task.needs else ''
  title = f'{name}{hidden}, step {trained.step}, {evaluations} network evaluations'
  return TaskResult(given, title, np.stack(results))


def first_request(
  trained: TrainedModel,
  name: str,
  *,
  num: int,
  label: str | None,
  mask: str | None,
  seed: int,
  options: Mapping[str, Any],
) -> Request:
  """The request of the first draw of `perform`, which raises the same errors."""
  given = _given(trained, name, num, mask, seed)
  return _request(trained, name, given, _labels(trained, name, given, label, 0), options)


def _request(
  trained: TrainedModel,
  name: str,
  given: TaskInput,
  label: Int[np.ndarray | Array, 'n'] | None,
  options: Mapping[str, Any] | None,
) -> Request:
  task = trained.tasks[name]
  return Request(
    len(given.x),
    None if label is None else jnp.asarray(label),
    past=jnp.asarray(given.x) if 'past' in task.needs else None,
    mask=None if given.known is None else jnp.asarray(given.known, jnp.uint8),
    options={**task.options, **(options or {})},
  )


def _labels(
  trained: TrainedModel, name: str, given: TaskInput, label: str | None, draw: int
) -> Int[np.ndarray | Array, 'n'] | None:
  """The classes of the results: the images' own, unless --label names another."""
  if label is None and given.label is not None and trained.method.labelled:
    return SHARED_LABELS[name](given.label, draw) if name in SHARED_LABELS else given.label
  return parse_label(label, len(given.x), trained.data.spec, trained.method.labelled)


def _nearer_end(own: Int[np.ndarray, 'n'], draw: int) -> Int[np.ndarray, 'n']:
  """An interpolation between the first and the last image has the class of the nearer one."""
  return np.where(np.arange(len(own)) * 2 < len(own), own[0], own[-1])


def _one_sample(own: Int[np.ndarray, 'n'], draw: int) -> Int[np.ndarray, 'n']:
  """All states of a trajectory belong to one sample."""
  return np.full(len(own), own[draw % len(own)])


# Tasks whose images depend on each other, with the classes of their results.
SHARED_LABELS: dict[str, Callable[[Int[np.ndarray, 'n'], int], Int[np.ndarray, 'n']]] = {
  'interpolate': _nearer_end,
  'trajectory': _one_sample,
}


def _given(trained: TrainedModel, name: str, num: int, mask: str | None, seed: int) -> TaskInput:
  """Images of the test split, and the mask."""
  if not trained.tasks:
    raise ValueError(f'--task={name}: family {trained.family!r} has no tasks on given images')
  task = pick(trained.tasks, name, f'{trained.family} task')
  # Images that depend on each other must be drawn in one call.
  if name in SHARED_LABELS and not 2 <= num <= BATCH:
    raise ValueError(f'--num={num}: --task={name} needs 2 to {BATCH} images')
  test = trained.data.splits['test']
  if num > len(test):
    raise ValueError(f'--num={num}: the test split has only {len(test)} images')
  if mask is not None and 'mask' not in task.needs:
    raise ValueError(f'--mask={mask!r}: --task={name} takes no mask; leave the flag out')
  images = test.gather(np.random.default_rng(seed).permutation(len(test))[:num])
  known = read_mask(mask or task.mask, trained.data.spec, seed) if 'mask' in task.needs else None
  return TaskInput(images['x'], images.get('label'), known)


def _input(given: TaskInput, levels: int) -> Rows:
  return [('input', pictures.to_rgb(given.x, levels))]


def _masked(given: TaskInput, levels: int) -> Rows:
  """The images, and the known part of them: the pixels to fill in are blue."""
  (caption, images) = _input(given, levels)[0]
  # A pixel counts as known if any of its channels is.
  visible = np.where(given.known.any(-1, keepdims=True), images, np.uint8(FILL))
  return [(caption, images), ('given', visible)]


def _grey(given: TaskInput, levels: int) -> Rows:
  (caption, images) = _input(given, levels)[0]
  # The unweighted mean of the channels: the grey image that the task is conditioned on.
  grey = np.round(images.mean(-1, keepdims=True)).astype(np.uint8)
  return [(caption, images), ('given', np.broadcast_to(grey, images.shape))]


def _ends(given: TaskInput, levels: int) -> Rows:
  (_, images) = _input(given, levels)[0]
  visible = np.full(images.shape, 255, np.uint8)
  visible[[0, -1]] = images[[0, -1]]
  return [('ends', visible)]


def _nothing(given: TaskInput, levels: int) -> Rows:
  return []


# The rows that show the input of each task.
INPUT_ROWS: dict[str, Callable[[TaskInput, int], Rows]] = {
  'inpaint': _masked,
  'repaint': _masked,
  'complete': _masked,
  'colourise': _grey,
  'sdedit': _input,
  'reconstruct': _input,
  'interpolate': _ends,
  'trajectory': _nothing,
}


def picture(name: str, result: TaskResult, levels: int, scale: int) -> UInt8[np.ndarray, 'h w 3']:
  """One picture of a task: its input, its mask, and the results.

  Args:
    name: the task.
    result: from `perform`, with its images in visible colours (`Domain.as_images`).
    levels: the images hold integers in [0, levels).
    scale: size of a pixel.
  """
  rows = INPUT_ROWS[name](result.given, levels)
  for number, x in enumerate(result.images, 1):
    caption = 'result' if len(result.images) == 1 else f'result {number}'
    rows.append((caption, pictures.to_rgb(x, levels)))
  return pictures.captioned_rows(result.title, rows, scale)
