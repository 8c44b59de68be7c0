"""What to sample: new images, or an edit of given ones. Tasks by name.

A task is a pure function of a `Setting`, which holds everything that sampling needs, and of what is
given: `past`, data in [-1, 1], and `mask`.
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Key

from common.method import example_keys
from diffusion.predictions import expand, normal_like
from diffusion.processes.process import Process
from diffusion.sampling import editing
from diffusion.sampling.driver import sample, trajectory
from diffusion.sampling.guidance import Denoiser
from diffusion.sampling.solvers import Sampler

Drawn = tuple[Float[Array, 'batch *shape'], Int[Array, '']]  # samples, network evaluations


class Setting(NamedTuple):
  """How to sample.

  Attributes:
    process, sampler, denoise: see `diffusion.samplers.sample`.
    times: the grid; padded, and traced, for a task that only samples forwards.
    num_steps: of a padded grid, else None.
    final_denoise: see `diffusion.samplers.sample`.
    like: zeros of the shape of the samples.
    keys: one per sample, for the noise it starts from.
    key: for the sampler.
    options: the task's own settings.
  """

  process: Process
  sampler: Sampler
  denoise: Denoiser
  times: Any
  num_steps: Int[Array, ''] | None
  final_denoise: bool
  like: Float[Array, 'batch *shape']
  keys: Key[Array, 'batch']
  key: Key[Array, '']
  options: Mapping[str, Any]

  def start(self) -> Float[Array, 'batch *shape']:
    """The noise that samples start from."""
    return self.process.prior_std * normal_like(self.keys, self.like)


class Task(NamedTuple):
  """A way to use a model.

  Attributes:
    run: (setting, past, mask) -> Drawn.
    needs: which of 'past' and 'mask' must be given.
    fixed_grid: whether the grid must be known when compiled.
    reversible: whether it also runs backwards, on a grid that ends at t_min.
  """

  run: Callable[[Setting, Array | None, Array | None], Drawn]
  needs: tuple[str, ...] = ('past',)
  fixed_grid: bool = False
  reversible: bool = False


def _walk(setting: Setting, sampler: Sampler, x: Array, times: Any = None) -> Drawn:
  return sample(
    sampler,
    setting.process,
    setting.denoise,
    setting.times if times is None else times,
    x,
    setting.key,
    num_steps=setting.num_steps,
    final_denoise=setting.final_denoise,
  )


def _generate(setting, past, mask) -> Drawn:
  return _walk(setting, setting.sampler, setting.start())


def _inpaint(setting, past, mask) -> Drawn:
  return _walk(setting, editing.inpaint(setting.sampler, past, mask), setting.start())


def _repaint(setting, past, mask) -> Drawn:
  return editing.resample(
    editing.inpaint(setting.sampler, past, mask),
    setting.process,
    setting.denoise,
    setting.times,
    setting.start(),
    setting.key,
    jump=setting.options['jump'],
    repeats=setting.options['repeats'],
  )


def _colourise(setting, past, mask) -> Drawn:
  grey = past.mean(axis=-1, keepdims=True)
  sampler = editing.colourise(setting.sampler, grey, past.shape[-1])
  return _walk(setting, sampler, setting.start())


def _sdedit(setting, past, mask) -> Drawn:
  x, rest = editing.perturb(
    setting.process, past, setting.times, setting.options['strength'], setting.keys
  )
  return _walk(setting, setting.sampler, x, rest)


def _encode(setting: Setting, past: Array) -> Drawn:
  return editing.encode(setting.sampler, setting.process, setting.denoise, setting.times, past)


def _decode(setting: Setting, code: Array) -> Drawn:
  return editing.decode(setting.sampler, setting.process, setting.denoise, setting.times, code)


def _reconstruct(setting, past, mask) -> Drawn:
  code, up = _encode(setting, past)
  x, down = _decode(setting, code)
  return x, up + down


def _interpolate(setting, past, mask) -> Drawn:
  """From the first given image to the last, by way of as many codes as there are samples."""
  codes, up = _encode(setting, past)
  number = past.shape[0]
  ends = [jnp.broadcast_to(codes[i], codes.shape) for i in (0, number - 1)]
  weight = jnp.linspace(0, 1, number).reshape((number,) + (1,) * (past.ndim - 1))
  x, down = _decode(setting, editing.slerp(*ends, weight))
  return x, up + down


def _trajectory(setting, past, mask) -> Drawn:
  """One sample's way from noise to data, in as many states of it as samples are asked for.

  Where noise is larger than data can be (VE, EDM), a state is shown at the size of unit noise.
  """
  number = setting.like.shape[0]
  same = setting._replace(keys=jnp.broadcast_to(setting.keys[:1], (number,)))
  keys = example_keys(setting.key, jnp.zeros(number, jnp.int32))
  path, count = trajectory(
    setting.sampler, setting.process, setting.denoise, setting.times, same.start(), keys
  )
  steps = np.round(np.linspace(0, path.shape[0] - 1, number)).astype(int)
  t = jnp.asarray(setting.times, path.dtype)[steps]
  size = jnp.sqrt(setting.process.alpha(t) ** 2 + setting.process.sigma(t) ** 2)
  x = path[steps, np.arange(number)]
  return x / expand(jnp.maximum(size, 1), x), count


TASKS = {
  'generate': Task(_generate, needs=()),
  'inpaint': Task(_inpaint, needs=('past', 'mask')),
  'repaint': Task(_repaint, needs=('past', 'mask'), fixed_grid=True),
  'colourise': Task(_colourise),
  'sdedit': Task(_sdedit, fixed_grid=True),
  'reconstruct': Task(_reconstruct, fixed_grid=True, reversible=True),
  'interpolate': Task(_interpolate, fixed_grid=True, reversible=True),
  'trajectory': Task(_trajectory, needs=(), fixed_grid=True),
}


def check_given(
  name: str, task: Task, shape: tuple[int, ...], past: Array | None, mask: Array | None
) -> None:
  """Refuses what a task cannot use.

  Args:
    name: of the task.
    task: the task.
    shape: of the samples, [num, *DataSpec.shape].
    past: what is given.
    mask: where it holds; of the shape of `past`, or one that broadcasts to it.

  Raises:
    ValueError: when something is missing, unused or of the wrong shape.
  """
  given = {'past': past, 'mask': mask}
  for part, value in given.items():
    if (value is None) == (part in task.needs):
      needs = ' and '.join(task.needs) or 'neither past nor mask'
      raise ValueError(
        f'task {name!r} takes {needs}; {part} is {"missing" if value is None else "given"}'
      )
  if past is not None and tuple(past.shape) != shape:
    raise ValueError(f'task {name!r}: past must be of shape {shape}, not {tuple(past.shape)}')
  if mask is not None:
    editing.check_mask(mask, shape)
