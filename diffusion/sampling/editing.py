"""Editing with a trained denoiser: inpainting, colourisation, SDEdit, codes, interpolation.

Inpainting and colourisation transform a sampler into a sampler, so that any of `SAMPLERS` can be
used and any guidance applies; the rest says where to start.

  sampler = inpaint(ddim(1.0), known, mask)
  x, evaluations = sample(sampler, process, denoise, times, x, key)
  x, evaluations = resample(sampler, process, denoise, times, x, key, jump=10, repeats=10)
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Key

from common.method import example_keys
from diffusion.predictions import Denoise, normal_like
from diffusion.processes.process import Process
from diffusion.sampling.driver import check_times, drive
from diffusion.sampling.solvers import Sampler, split_keys

KNOWN, UP = 101, 102  # uses of a step's keys, apart from those of the samplers themselves


def inpaint(
  sampler: Sampler,
  known: Float[Array, 'batch *shape'],
  mask: Array | np.ndarray,
  basis: np.ndarray | None = None,
) -> Sampler:
  """Replaces the known part, at its right noise level, after every step (Song et al. 2021, I.2).

  At time 0 that is the known part itself, untouched.

  Args:
    sampler: any that forgets its past within a step: one of several steps (DPM-Solver++ 2M, 3M,
      UniPC) extends estimates made before the replacement, and loses its order.
    known: clean data, [batch, *shape]; what it holds outside the mask has no effect.
    mask: of known's shape, or one that broadcasts to it ([height, width, 1]): true, or 1, where
      `known` holds.
    basis: orthogonal matrix [channels, channels]; the mask is over the last axis of x @ basis.

  Raises:
    ValueError: for a mask of the wrong shape, or with values other than 0 and 1; a basis that is
      not orthogonal.
  """
  check_mask(mask, known.shape)
  mask = jnp.asarray(mask, bool)
  if basis is not None:
    _check_basis(basis, known.shape[-1])

  def step(process, x, t, s, denoise, key, carry):
    x, carry = sampler.step(process, x, t, s, denoise, key, carry)
    wanted = process.alpha(s) * known + process.sigma(s) * normal_like(split_keys(key, KNOWN), x)
    return _merge(mask, wanted, x, basis), carry

  return sampler._replace(step=step, deterministic=False)


def colourise(sampler: Sampler, grey: Float[Array, 'batch ...'], channels: int = 3) -> Sampler:
  """Samples images whose mean over the channels is `grey` (Song et al. 2021, I.3).

  In an orthogonal basis whose first vector is grey, this is inpainting with that component known.

  Args:
    sampler: as for `inpaint`.
    grey: [batch, height, width, 1].
    channels: of the images.

  Raises:
    ValueError: when `grey` is not [batch, height, width, 1], or there are no colours to find.
  """
  if grey.ndim != 4 or grey.shape[-1] != 1 or channels < 2:
    raise ValueError(
      'colourisation needs grey images [batch, height, width, 1] and at least 2 channels, not'
      f' {grey.shape} and {channels}'
    )
  known = jnp.repeat(grey, channels, axis=-1)
  mask = np.arange(channels) == 0
  return inpaint(sampler, known, mask, grey_basis(channels))


def grey_basis(channels: int) -> np.ndarray:
  """An orthogonal matrix [channels, channels] whose first column is grey, the rest colour."""
  start = np.eye(channels)
  start[:, 0] = 1
  basis, _ = np.linalg.qr(start)
  return basis * np.sign(basis[0, 0])


def resample(
  sampler: Sampler,
  process: Process,
  denoise: Denoise,
  times: Any,
  x: Float[Array, 'batch ...'],
  key: Key[Array, ''] | Key[Array, 'batch'],
  jump: int,
  repeats: int,
) -> tuple[Float[Array, 'batch ...'], Int[Array, '']]:
  """Walks back and forth in time, to bring the sampled part in harmony with the known one.

  RePaint (Lugmayr et al. 2022, section 4.2): after every `jump` steps, as many steps of forward
  noise, and again, so that each stretch of the grid is denoised `repeats` times.

  Args:
    sampler: `inpaint` of a sampler without memory.
    process, denoise, times, x, key: as in `samplers.sample`.
    jump: steps of a stretch.
    repeats: how often each is denoised; 1 is inpainting alone.

  Returns:
    x, and network evaluations; noising takes none.

  Raises:
    ValueError: for a grid as in `sample`, or a jump or number of repeats below 1.
  """
  check_times(times)
  path = np.asarray(times)[resampling_path(len(times) - 1, jump, repeats)]
  return drive(both_ways(sampler), process, denoise, path, x, key)[:2]


def both_ways(sampler: Sampler) -> Sampler:
  """A sampler whose steps to a later time add the process's own noise, calling no network."""

  def step(process, x, t, s, denoise, key, carry):
    def up(x):
      # The forward transition from t to the later s: what is lost is what s knows less than t.
      std = process.sigma(s) * jnp.sqrt(process.lost(s, t))
      added = std * normal_like(split_keys(key, UP), x)
      return process.alpha(s) / process.alpha(t) * x + added, carry

    def down(x):
      return sampler.step(process, x, t, s, denoise, key, carry)

    return denoise.choose(s > t, up, down, x)

  return sampler._replace(step=step, evaluations=None, deterministic=False)


def resampling_path(steps: int, jump: int, repeats: int) -> np.ndarray:
  """Indices into a grid of steps + 1 times, in the order of RePaint's walk.

  Raises:
    ValueError: for a jump or number of repeats below 1.
  """
  if jump < 1 or repeats < 1:
    raise ValueError(f'resampling: jump={jump} and repeats={repeats} must be at least 1')
  path = [0]
  for start in range(0, steps, jump):
    stop = min(start + jump, steps)
    down, up = range(start + 1, stop + 1), range(stop - 1, start - 1, -1)
    path += [*down, *([*up, *down] * (repeats - 1))]
  return np.array(path)


def perturb(
  process: Process,
  given: Float[Array, 'batch *shape'],
  times: Any,
  strength: float,
  key: Key[Array, ''] | Key[Array, 'batch'],
) -> tuple[Float[Array, 'batch *shape'], np.ndarray]:
  """Where SDEdit starts (Meng et al. 2022, algorithm 1): `given` with noise, part of the way up.

  Args:
    process: the diffusion process.
    given: what to edit: a sketch, strokes, an image.
    times: the whole grid, from t_max.
    strength: share of its steps to take, in (0, 1]: small keeps to what is given.
    key: for the noise.

  Returns:
    x, and the rest of the grid: what `sample` needs.

  Raises:
    ValueError: for a grid as in `sample`, or a strength outside (0, 1].
  """
  check_times(times)
  if not 0 < strength <= 1:
    raise ValueError(f'strength={strength} must be in (0, 1]')
  steps = len(times) - 1
  rest = np.asarray(times)[steps - max(1, round(strength * steps)) :]
  keys = key if key.ndim else example_keys(key, jnp.arange(given.shape[0]))
  t = jnp.asarray(rest[0], given.dtype)
  return process.alpha(t) * given + process.sigma(t) * normal_like(keys, given), rest


def encode(
  sampler: Sampler, process: Process, denoise: Denoise, times: Any, x: Float[Array, 'batch ...']
) -> tuple[Float[Array, 'batch ...'], Int[Array, '']]:
  """Runs the flow backwards, from data to the noise that `decode` turns into it again.

  Args:
    sampler: a deterministic one (DDIM with eta 0, Heun, adaptive, ...).
    process, denoise: as in `samplers.sample`.
    times: the grid of `decode`, decreasing, its last time above 0: at time 0 there is no noise to
      see, and the way up does not exist.
    x: data.

  Returns:
    x at times[0], and network evaluations.

  Raises:
    ValueError: for a sampler with randomness, or a grid that is wrong or ends at time 0.
  """
  _check_reversible(sampler, times)
  scaled = process.alpha(jnp.asarray(times[-1], x.dtype)) * x
  return drive(sampler, process, denoise, np.asarray(times)[::-1], scaled, jax.random.key(0))[:2]


def decode(
  sampler: Sampler, process: Process, denoise: Denoise, times: Any, code: Float[Array, 'batch ...']
) -> tuple[Float[Array, 'batch ...'], Int[Array, '']]:
  """From a code at times[0] to data: the inverse of `encode`, up to the solver's error.

  Raises:
    ValueError: as `encode`.
  """
  _check_reversible(sampler, times)
  x, count, _ = drive(sampler, process, denoise, times, code, jax.random.key(0))
  return x / process.alpha(jnp.asarray(times[-1], x.dtype)), count


def _check_reversible(sampler: Sampler, times: Any) -> None:
  check_times(times)
  if not sampler.deterministic:
    raise ValueError('the code of data needs a deterministic sampler, such as ddim with eta 0')
  if times[-1] <= 0:
    raise ValueError(f'the code of data needs a grid that ends above time 0, not at {times[-1]}')


def slerp(
  a: Float[Array, 'batch *shape'], b: Float[Array, 'batch *shape'], weight: float | Array
) -> Float[Array, 'batch *shape']:
  """Spherical interpolation of each pair (Shoemake 1985): 0 is a, 1 is b.

  Halfway between two noises is again as long as noise, where a straight line's middle is shorter.
  Pairs along one line are interpolated straight.
  """
  axes = tuple(range(1, a.ndim))
  norm = lambda x: jnp.sqrt(jnp.sum(x**2, axes, keepdims=True))
  cosine = jnp.sum(a * b, axes, keepdims=True) / (norm(a) * norm(b))
  angle = jnp.arccos(jnp.clip(cosine, -1, 1))
  curved = jnp.sin(angle) > 1e-4
  sine = jnp.where(curved, jnp.sin(angle), 1)
  first = jnp.where(curved, jnp.sin((1 - weight) * angle) / sine, 1 - weight)
  second = jnp.where(curved, jnp.sin(weight * angle) / sine, weight)
  return first * a + second * b


def _merge(mask: Array, known: Array, x: Array, basis: np.ndarray | None) -> Array:
  if basis is None:
    return jnp.where(mask, known, x)
  basis = jnp.asarray(basis, x.dtype)
  return jnp.where(mask, known @ basis, x @ basis) @ basis.T


def check_mask(mask: Array | np.ndarray, shape: tuple[int, ...]) -> None:
  """Refuses a mask that does not fit data of this shape, or (unless traced) has other values.

  Raises:
    ValueError: what is wrong with it.
  """
  try:
    fits = np.broadcast_shapes(mask.shape, shape) == tuple(shape)
  except ValueError:
    fits = False
  if not fits:
    raise ValueError(f'a mask of shape {mask.shape} does not fit data of shape {tuple(shape)}')
  if not isinstance(mask, jax.core.Tracer) and not np.isin(np.asarray(mask), (0, 1)).all():
    raise ValueError('a mask holds 1 (known) and 0 (to be sampled), and nothing else')


def _check_basis(basis: np.ndarray, channels: int) -> None:
  if basis.shape != (channels, channels) or not np.allclose(basis @ basis.T, np.eye(channels)):
    raise ValueError(f'the basis must be an orthogonal matrix for {channels} channels')
