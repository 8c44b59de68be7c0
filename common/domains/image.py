"""Images: a grid of samples with rows for each class, and tasks on given images."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from jaxtyping import Shaped

from common.data.spec import DataSpec
from common.domains import image_tasks
from common.domains.base import Domain, SampleSettings, TrainedModel
from common.domains.masks import HIDDEN
from common.reporting import pictures

VISIBLE = (1, 3, 4)  # numbers of channels that have colours: grey, RGB, RGBA
SHOWN_NUMBER = 3.0  # of images of numbers: -3 is shown black and 3 white


class ImageDomain(Domain):
  """Integers [height, width, channels], or numbers; with a palette, indices of colours."""

  noun = unit = 'images'
  usage = 'drawn by --num and --label or edited by --task'
  metrics = Domain.metrics | {
    'agreement',
    'frechet',
    'precision',
    'recall',
    'high_frequency',
    'reconstruction',
    'noisy_accuracy',
    'sampling_flops',
    'modes',
    'mode_kl',
  }
  flags: Mapping[str, str] = {
    'num': 'number of images to draw (100) or to edit (10)',
    'label': "class, by name or number, or 'none' (all in turn; for a task, those of its images)",
    'task': 'an edit of images of the test split, such as inpaint',
    'mask': f'pixels that a task fills in: {", ".join(HIDDEN)}, with :SHARE if not 0.5; '
    'or a .png (white) or .npy (1) as large as an image',
    'draws': 'number of results for each image of a task (3)',
    'columns': 'number in a row of the picture (10); each class has rows of its own',
    'scale': 'size of a pixel in the picture (small images are enlarged)',
  }

  def as_images(self, spec, x):
    x = np.asarray(x)
    if spec.latents is not None:
      images = spec.latents.images
      return self.as_images(images, spec.latents.decode(x))
    if spec.palette is not None:
      return spec.palette.decode(x), 256
    if not spec.levels:
      grey = np.clip(np.round((x / SHOWN_NUMBER + 1) * 127.5), 0, 255).astype(np.uint8)
      return side_by_side(grey), 256
    return (x if spec.shape[-1] in VISIBLE else side_by_side(x)), spec.levels

  def dimension_note(self, spec, bits):
    return '' if spec.palette is None else '; of palette indices, not of colours'

  def num_pixels(self, spec, flags):
    height, width, channels = (spec.latents.images if spec.latents else spec).shape
    side_by_side = 1 if channels in VISIBLE else channels
    scale = flags.scale or pictures.visible_scale(np.zeros((height, width, channels)))
    return height * width * side_by_side * scale**2

  def first_request(self, trained, settings):
    flags = settings.flags
    if flags.task is not None:
      return image_tasks.first_request(trained, flags.task, **self._task(trained, settings))
    if flags.mask is not None:
      raise ValueError(f'--mask={flags.mask!r} needs a --task that fills pixels in')
    if flags.draws is not None:
      raise ValueError(f'--draws={flags.draws} needs a --task; without one, use --num')
    return super().first_request(trained, settings)

  def draw(self, trained, settings):
    """Images [num, height, width, channels]; of a task, [draws, num, height, width, channels]."""
    if settings.flags.task is not None:
      return trained.data.spec.decoded(self._perform(trained, settings).images)
    return super().draw(trained, settings)

  def sample(self, trained, settings, out):
    flags = settings.flags
    if flags.task is None:
      return super().sample(trained, settings, out)
    result = self._perform(trained, settings)
    if out.suffix == '.npy':
      pictures.save_array(out, trained.data.spec.decoded(result.images))
    else:
      pictures.save_png(out, self.task_picture(trained.data.spec, flags.task, result, flags.scale))
    draws, num = result.images.shape[:2]
    return f'{result.title}; {draws} × {num} results in {out}'

  def _perform(self, trained: TrainedModel, settings: SampleSettings) -> image_tasks.TaskResult:
    """Performs the task of the flags."""
    draws = settings.flags.draws or 3
    task = self._task(trained, settings)
    return image_tasks.perform(trained, settings.flags.task, draws=draws, **task)

  def _task(self, trained: TrainedModel, settings: SampleSettings) -> dict[str, Any]:
    """The arguments of the task of the flags."""
    flags, channels = settings.flags, trained.data.spec.shape[-1]
    if flags.columns is not None:
      raise ValueError(f'--columns={flags.columns}: the picture of a task has one for each image')
    if flags.task == 'colourise' and trained.data.spec.latents is not None:
      raise ValueError('--task=colourise needs images in colour, and the model is one of latents')
    if flags.task == 'colourise' and not (channels in VISIBLE[1:] and trained.data.spec.levels):
      raise ValueError(f'--task=colourise needs images in colour, got {channels} channels')
    return {
      'num': flags.num or 10,
      'label': flags.label,
      'mask': flags.mask,
      'seed': settings.seed,
      'options': settings.options,
    }

  def task_picture(
    self, spec: DataSpec, name: str, result: image_tasks.TaskResult, scale: int | None
  ) -> np.ndarray:
    """The picture of a task in the colours of the data; `scale` is the size of a pixel."""
    # Colours come first: a grey version or a mask of palette indices would be meaningless.
    given, levels = self.as_images(spec, result.given.x)
    images, _ = self.as_images(spec, result.images)
    known = result.given.known
    if known is not None and spec.latents is not None:
      # A latent covers a square of pixels.
      rows, columns = (n // m for n, m in zip(given.shape[1:3], known.shape[:2], strict=True))
      known = known.any(-1, keepdims=True).repeat(rows, 0).repeat(columns, 1)
    elif known is not None and not (spec.shape[-1] in VISIBLE and spec.levels):
      known = side_by_side(known)
    visible = result._replace(given=result.given._replace(x=given, known=known), images=images)
    return image_tasks.picture(name, visible, levels, scale or pictures.visible_scale(images))


def side_by_side(
  x: Shaped[np.ndarray, '... height width channels'],
) -> Shaped[np.ndarray, '... height channels_width 1']:
  """The channels of images next to each other, from left to right, as one grey image."""
  *batch, height, width, channels = x.shape
  return np.moveaxis(x, -1, -2).reshape(*batch, height, channels * width, 1)
