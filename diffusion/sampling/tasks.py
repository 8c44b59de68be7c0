"""Tasks, by name: sampling new images, or editing given ones.

A task is a pure function of `TaskInputs`, which holds everything that sampling needs.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any, ClassVar, NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Key

from common.config import pick
from common.method import example_keys
from diffusion.predictions import expand, normal_like
from diffusion.sampling import editing
from diffusion.sampling.driver import ReverseChain, sample, trajectory
from diffusion.sampling.solvers import Sampler

# Samples, and network evaluations per sample.
Result = tuple[Float[Array, 'batch *shape'], Int[Array, '']]


class TaskInputs(NamedTuple):
  """Everything that a task needs.

  Attributes:
    chain: the sampler, the process and the denoiser.
    times: the grid; padded, and traced, for a task that only samples forwards.
    num_steps: number of steps of a padded grid, else None.
    final_denoise: see `driver.sample`.
    like: zeros of the shape of the samples.
    keys: one key per sample, for its initial noise.
    key: the key of the sampler.
    past: the given data in [-1, 1], or None.
    mask: 1 where `past` is to be kept, or None.
  """

  chain: ReverseChain
  times: Any
  num_steps: Int[Array, ''] | None
  final_denoise: bool
  like: Float[Array, 'batch *shape']
  keys: Key[Array, 'batch']
  key: Key[Array, '']
  past: Array | None
  mask: Array | None

  def start(self) -> Float[Array, 'batch *shape']:
    """The noise that samples start from."""
    return self.chain.process.prior_std * normal_like(self.keys, self.like)

  def sample(self, sampler: Sampler, x: Array, times: Any = None) -> Result:
    """Samples from x along the grid, or along other times."""
    return sample(
      sampler,
      self.chain.process,
      self.chain.denoise,
      self.times if times is None else times,
      x,
      self.key,
      num_steps=self.num_steps,
      final_denoise=self.final_denoise,
    )


class Task:
  """A way to use a model. Each task is a frozen dataclass of its own settings.

  Attributes:
    needs: which of 'past' and 'mask' must be given.
    fixed_grid: whether the grid must be known when the task is compiled.
    reversible: whether the sampler also runs backwards, on a grid that ends at t_min.
    can_denoise: whether the task heeds `final_denoise`.
  """

  needs: ClassVar[tuple[str, ...]] = ('past',)
  fixed_grid: ClassVar[bool] = False
  reversible: ClassVar[bool] = False
  can_denoise: ClassVar[bool] = True

  def run(self, inputs: TaskInputs) -> Result:
    """Returns samples, and network evaluations per sample."""
    raise NotImplementedError


@dataclasses.dataclass(frozen=True)
class Generate(Task):
  """New images from noise."""

  needs: ClassVar[tuple[str, ...]] = ()

  def run(self, inputs: TaskInputs) -> Result:
    return inputs.sample(inputs.chain.sampler, inputs.start())


@dataclasses.dataclass(frozen=True)
class Inpaint(Task):
  """Fills in the part that the mask leaves open."""

  needs: ClassVar[tuple[str, ...]] = ('past', 'mask')

  def run(self, inputs: TaskInputs) -> Result:
    sampler = editing.inpaint(inputs.chain.sampler, inputs.past, inputs.mask)
    return inputs.sample(sampler, inputs.start())


@dataclasses.dataclass(frozen=True)
class Repaint(Task):
  """Inpainting that walks back and forth in time (Lugmayr et al. 2022).

  Attributes:
    jump: number of steps of a stretch.
    repeats: number of times that each stretch is denoised.
  """

  jump: int = 5
  repeats: int = 5
  needs: ClassVar[tuple[str, ...]] = ('past', 'mask')
  fixed_grid: ClassVar[bool] = True

  def run(self, inputs: TaskInputs) -> Result:
    sampler = editing.inpaint(inputs.chain.sampler, inputs.past, inputs.mask)
    return editing.resample(
      inputs.chain._replace(sampler=sampler),
      inputs.times,
      inputs.start(),
      inputs.key,
      jump=self.jump,
      repeats=self.repeats,
      final_denoise=inputs.final_denoise,
    )


@dataclasses.dataclass(frozen=True)
class Colourise(Task):
  """New colours for the given images, whose own colours have no effect."""

  def run(self, inputs: TaskInputs) -> Result:
    # Only the mean over the channels is kept: the given colours do not reach the network.
    grey = inputs.past.mean(axis=-1, keepdims=True)
    sampler = editing.colourise(inputs.chain.sampler, grey, inputs.past.shape[-1])
    return inputs.sample(sampler, inputs.start())


@dataclasses.dataclass(frozen=True)
class SDEdit(Task):
  """Adds noise to the given images and removes it again (Meng et al. 2022).

  Attributes:
    strength: share of the steps to take.
  """

  strength: float = 0.5
  fixed_grid: ClassVar[bool] = True

  def run(self, inputs: TaskInputs) -> Result:
    x, rest = editing.perturb(
      inputs.chain.process, inputs.past, inputs.times, self.strength, inputs.keys
    )
    return inputs.sample(inputs.chain.sampler, x, rest)


@dataclasses.dataclass(frozen=True)
class Reconstruct(Task):
  """The given images, encoded and decoded again."""

  fixed_grid: ClassVar[bool] = True
  reversible: ClassVar[bool] = True
  can_denoise: ClassVar[bool] = False

  def run(self, inputs: TaskInputs) -> Result:
    # The evaluations of both directions count.
    code, up = editing.encode(*inputs.chain, inputs.times, inputs.past)
    x, down = editing.decode(*inputs.chain, inputs.times, code)
    return x, up + down


@dataclasses.dataclass(frozen=True)
class Interpolate(Task):
  """Images between the first given one and the last, each decoded from an interpolated code."""

  fixed_grid: ClassVar[bool] = True
  reversible: ClassVar[bool] = True
  can_denoise: ClassVar[bool] = False

  def run(self, inputs: TaskInputs) -> Result:
    past = inputs.past
    codes, up = editing.encode(*inputs.chain, inputs.times, past)
    number = past.shape[0]
    first, last = (jnp.broadcast_to(codes[i], codes.shape) for i in (0, number - 1))
    # Codes are noise: spherical interpolation keeps the norm of noise.
    weight = jnp.linspace(0, 1, number).reshape((number,) + (1,) * (past.ndim - 1))
    x, down = editing.decode(*inputs.chain, inputs.times, editing.slerp(first, last, weight))
    return x, up + down


@dataclasses.dataclass(frozen=True)
class Trajectory(Task):
  """One sample on its way from noise to data, at as many times as there are samples to return.

  States larger than unit noise (VE, EDM) are scaled down to it, so that they can be shown.
  """

  needs: ClassVar[tuple[str, ...]] = ()
  fixed_grid: ClassVar[bool] = True
  can_denoise: ClassVar[bool] = False

  def run(self, inputs: TaskInputs) -> Result:
    number = inputs.like.shape[0]
    # Every row is the same sample: the same initial noise, and the same key at every step.
    same = inputs._replace(keys=jnp.broadcast_to(inputs.keys[:1], (number,)))
    keys = example_keys(inputs.key, jnp.zeros(number, jnp.int32))
    path, count = trajectory(*inputs.chain, inputs.times, same.start(), keys)
    # Row i shows the i-th of `number` states that are spread evenly over the path.
    steps = np.round(np.linspace(0, path.shape[0] - 1, number)).astype(int)
    t = jnp.asarray(inputs.times, path.dtype)[steps]
    process = inputs.chain.process
    size = jnp.sqrt(process.alpha(t) ** 2 + process.sigma(t) ** 2)
    x = path[steps, np.arange(number)]
    return x / expand(jnp.maximum(size, 1), x), count


TASKS = {
  'generate': Generate,
  'inpaint': Inpaint,
  'repaint': Repaint,
  'colourise': Colourise,
  'sdedit': SDEdit,
  'reconstruct': Reconstruct,
  'interpolate': Interpolate,
  'trajectory': Trajectory,
}


def build_task(section: Mapping) -> Task:
  """The task of a config's section, which holds the settings of every task.

  Raises:
    ConfigError: for an unknown name.
  """
  task = pick(TASKS, section['name'], 'sampling.task')
  return task(**{field.name: section[field.name] for field in dataclasses.fields(task)})


def check_given(
  name: str, task: Task, shape: tuple[int, ...], past: Array | None, mask: Array | None
) -> None:
  """Refuses inputs that a task cannot use.

  Args:
    name: the name of the task.
    task: the task.
    shape: the shape of the samples, [num, *DataSpec.shape].
    past: the given data.
    mask: 1 where the data is to be kept; of the shape of `past`, or one that broadcasts to it.

  Raises:
    ValueError: if something is missing, unused or of the wrong shape.
  """
  given = {'past': past, 'mask': mask}
  for part, value in given.items():
    if (value is None) == (part in task.needs):
      needs = ' and '.join(task.needs) or 'neither past nor mask'
      end = 'given'
      if value is None:
        end = f"missing: leave sampling.task.name='generate' and use twofold sample --task={name}"
      raise ValueError(f'task {name!r} takes {needs}; {part} is {end}')
  if past is not None and tuple(past.shape) != shape:
    raise ValueError(f'task {name!r}: past must be of shape {shape}, got {tuple(past.shape)}')
  if mask is not None:
    editing.check_mask(mask, shape)
