"""Editing with a trained denoiser: inpainting, colourisation, SDEdit, codes, interpolation.

Inpainting and colourisation transform a sampler into a sampler, so that any of `SAMPLERS` can be
used and any guidance applies; the others choose where sampling starts.

  sampler = inpaint(DDIM(1.0), known, mask)
  x, evaluations = sample(sampler, process, denoise, times, x, key)
  chain = ReverseChain(sampler, process, denoise)
  x, evaluations = resample(chain, times, x, key, jump=10, repeats=10)
"""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Key

from common.method import example_keys
from diffusion.predictions import Denoise, fold_in_each, normal_like
from diffusion.processes.process import Process
from diffusion.sampling.driver import ReverseChain, check_times, drive
from diffusion.sampling.solvers import Sampler

KNOWN_NOISE, FORWARD_NOISE = 101, 102  # uses of a step's keys; the samplers use smaller numbers


@dataclasses.dataclass(frozen=True, eq=False)
class Wrapped(Sampler):
  """A sampler that wraps another, with the same carry."""

  sampler: Sampler

  def init(self, x, steps):
    return self.sampler.init(x, steps)

  def finish(self, clean):
    return self.sampler.finish(clean)


@dataclasses.dataclass(frozen=True, eq=False)
class Inpaint(Wrapped):
  """See `inpaint`, which checks the arguments."""

  known: Float[Array, 'batch *shape']
  mask: Array
  basis: np.ndarray | None

  def step(self, process, x, t, s, denoise, key, carry):
    x, carry = self.sampler.step(process, x, t, s, denoise, key, carry)
    # The known part at the noise level of time s: a draw from q(x_s | x0).
    noise = normal_like(fold_in_each(key, KNOWN_NOISE), x)
    noisy = process.alpha(s) * self.known + process.sigma(s) * noise
    return _merge(self.mask, noisy, x, self.basis), carry

  def finish(self, clean):
    return _merge(self.mask, self.known, self.sampler.finish(clean), self.basis)


@dataclasses.dataclass(frozen=True, eq=False)
class BothWays(Wrapped):
  """A sampler whose steps to a later time add the process's noise and call no network."""

  def step(self, process, x, t, s, denoise, key, carry):
    forward = functools.partial(self._forward, process, t, s, key, carry)
    reverse = functools.partial(self._reverse, process, t, s, denoise, key, carry)
    return denoise.choose(s > t, forward, reverse, x)

  def _forward(self, process, t, s, key, carry, x):
    # The forward transition q(x_s | x_t) from t to the later s, of variance σ²(s|t).
    std = process.sigma(s) * jnp.sqrt(process.added_noise_share(s, t))
    added = std * normal_like(fold_in_each(key, FORWARD_NOISE), x)
    return process.alpha(s) / process.alpha(t) * x + added, carry

  def _reverse(self, process, t, s, denoise, key, carry, x):
    return self.sampler.step(process, x, t, s, denoise, key, carry)


def inpaint(
  sampler: Sampler,
  known: Float[Array, 'batch *shape'],
  mask: Array | np.ndarray,
  basis: np.ndarray | None = None,
) -> Sampler:
  """Replaces the known part, at the current noise level, after every step (Song et al. 2021, I.2).

  At time 0, and after final denoising, the result contains the known part unchanged.

  Args:
    sampler: preferably without memory: a multistep sampler (DPM-Solver++ 2M, 3M, UniPC)
      extrapolates from estimates made before the replacement, and loses its order.
    known: clean data, [batch, *shape]; its values outside the mask have no effect.
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
  return Inpaint(sampler, known, mask, basis)


def colourise(sampler: Sampler, grey: Float[Array, 'batch ...'], channels: int = 3) -> Sampler:
  """Samples images whose mean over the channels is `grey` (Song et al. 2021, I.3).

  In an orthogonal basis whose first vector is grey, this is inpainting with that component known.

  Args:
    sampler: as for `inpaint`.
    grey: [batch, height, width, 1].
    channels: number of channels of the images.

  Raises:
    ValueError: if `grey` is not [batch, height, width, 1], or images have only one channel.
  """
  if grey.ndim != 4 or grey.shape[-1] != 1 or channels < 2:
    raise ValueError(
      'colourisation needs grey images [batch, height, width, 1] and at least 2 channels, got'
      f' images {grey.shape} and channels={channels}'
    )
  # Grey in every channel has no colour: in the basis only its first component is not 0.
  known = jnp.repeat(grey, channels, axis=-1)
  mask = np.arange(channels) == 0
  return inpaint(sampler, known, mask, grey_basis(channels))


def grey_basis(channels: int) -> np.ndarray:
  """An orthogonal matrix [channels, channels] whose first column is grey, the rest colour."""
  start = np.eye(channels)
  start[:, 0] = 1
  # Gram-Schmidt keeps the direction of the first column, up to its sign.
  basis, _ = np.linalg.qr(start)
  return basis * np.sign(basis[0, 0])


def resample(
  chain: ReverseChain,
  times: Any,
  x: Float[Array, 'batch ...'],
  key: Key[Array, ''] | Key[Array, 'batch'],
  *,
  jump: int,
  repeats: int,
  final_denoise: bool = False,
) -> tuple[Float[Array, 'batch ...'], Int[Array, '']]:
  """Walks back and forth in time, so that the sampled part agrees better with the known part.

  RePaint (Lugmayr et al. 2022, section 4.2): after every `jump` steps, the walk adds the noise of
  these steps and denoises again, until each stretch of the grid has been denoised `repeats` times.

  Args:
    chain: its sampler is `inpaint` of a sampler without memory.
    times, x, key: as in `driver.sample`.
    jump: number of steps of a stretch.
    repeats: number of times that each stretch is denoised; 1 is plain inpainting.
    final_denoise: as in `driver.sample`.

  Returns:
    x, and network evaluations; adding noise takes none.

  Raises:
    ValueError: for an invalid grid (see `sample`), or a jump or number of repeats below 1.
  """
  check_times(times)
  # Known on the host, so that the whole walk is one scan.
  path = np.asarray(times)[resampling_path(len(times) - 1, jump, repeats)]
  chain = chain._replace(sampler=BothWays(chain.sampler))
  return drive(chain, path, x, key, final_denoise=final_denoise)[:2]


def resampling_path(steps: int, jump: int, repeats: int) -> np.ndarray:
  """Indices into a grid of steps + 1 times, in the order of RePaint's walk.

  Raises:
    ValueError: for a jump or number of repeats below 1.
  """
  if jump < 1 or repeats < 1:
    raise ValueError(
      f'repaint: jump and repeats must be at least 1, got jump={jump} and repeats={repeats}'
    )
  # Down a stretch, then up and down again repeats − 1 times; then the next stretch.
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
  """The start of SDEdit (Meng et al. 2022, algorithm 1): `given` with the noise of a middle time.

  Args:
    process: the diffusion process.
    given: the image to edit: a sketch, strokes, a photograph.
    times: the whole grid, from t_max.
    strength: share of the grid's steps to take, in (0, 1]: a small one stays close to `given`.
    key: the key of the noise.

  Returns:
    x, and the rest of the grid, to be passed to `sample`.

  Raises:
    ValueError: for an invalid grid (see `sample`), or a strength outside (0, 1].
  """
  check_times(times)
  if not 0 < strength <= 1:
    raise ValueError(f'sdedit: strength must be in (0, 1], got {strength}')
  # The last steps of the grid, at least one of them.
  steps = len(times) - 1
  rest = np.asarray(times)[steps - max(1, round(strength * steps)) :]
  keys = key if key.ndim else example_keys(key, jnp.arange(given.shape[0]))
  # A draw from q(x_t | x0 = given).
  t = jnp.asarray(rest[0], given.dtype)
  return process.alpha(t) * given + process.sigma(t) * normal_like(keys, given), rest


def encode(
  sampler: Sampler, process: Process, denoise: Denoise, times: Any, x: Float[Array, 'batch ...']
) -> tuple[Float[Array, 'batch ...'], Int[Array, '']]:
  """Runs the flow backwards, from data to the noise that `decode` turns into it again.

  Args:
    sampler: a deterministic sampler (DDIM with eta 0, Heun, adaptive, ...).
    process, denoise: as in `driver.sample`.
    times: the grid of `decode`: decreasing, and above 0 at the end, because the flow cannot start
      from data without any noise.
    x: data.

  Returns:
    x at times[0], and network evaluations.

  Raises:
    ValueError: for a sampler with randomness, or a grid that is invalid or ends at time 0.
  """
  _check_reversible(sampler, times)
  # The data as the mean of x at the last time, without its noise: `decode` divides it out again.
  scaled = process.alpha(jnp.asarray(times[-1], x.dtype)) * x
  chain = ReverseChain(sampler, process, denoise)
  # A deterministic sampler draws nothing from the key.
  return drive(chain, np.asarray(times)[::-1], scaled, jax.random.key(0))[:2]


def decode(
  sampler: Sampler, process: Process, denoise: Denoise, times: Any, code: Float[Array, 'batch ...']
) -> tuple[Float[Array, 'batch ...'], Int[Array, '']]:
  """From a code at times[0] to data: the inverse of `encode`, up to the solver's error.

  Raises:
    ValueError: as `encode`.
  """
  _check_reversible(sampler, times)
  x, count, _ = drive(ReverseChain(sampler, process, denoise), times, code, jax.random.key(0))
  return x / process.alpha(jnp.asarray(times[-1], x.dtype)), count


def _check_reversible(sampler: Sampler, times: Any) -> None:
  check_times(times)
  if not sampler.deterministic:
    raise ValueError(
      f'encoding data needs a deterministic sampler, got {type(sampler).__name__} with randomness;'
      ' use, for example, ddim with eta=0'
    )
  if times[-1] <= 0:
    raise ValueError(
      f"encoding data needs a grid that ends above time 0 (grid.end='t_min'), got {times[-1]}"
    )


def slerp(
  a: Float[Array, 'batch *shape'], b: Float[Array, 'batch *shape'], weight: float | Array
) -> Float[Array, 'batch *shape']:
  """Spherical interpolation of each pair (Shoemake 1985): weight 0 is a, weight 1 is b.

  The point halfway between two noises has the norm of noise; on a straight line its norm would be
  smaller. Pairs along one line are interpolated straight.
  """
  axes = tuple(range(1, a.ndim))
  norms = [jnp.sqrt(jnp.sum(x**2, axes, keepdims=True)) for x in (a, b)]
  cosine = jnp.sum(a * b, axes, keepdims=True) / (norms[0] * norms[1])
  angle = jnp.arccos(jnp.clip(cosine, -1, 1))
  # For (nearly) parallel pairs sin(angle) is 0: the limit is the straight line.
  curved = jnp.sin(angle) > 1e-4
  sine = jnp.where(curved, jnp.sin(angle), 1)
  first = jnp.where(curved, jnp.sin((1 - weight) * angle) / sine, 1 - weight)
  second = jnp.where(curved, jnp.sin(weight * angle) / sine, weight)
  return first * a + second * b


def _merge(mask: Array, known: Array, x: Array, basis: np.ndarray | None) -> Array:
  """`known` where the mask holds, else x; in the given basis of the channels, if there is one."""
  if basis is None:
    return jnp.where(mask, known, x)
  basis = jnp.asarray(basis, x.dtype)
  # Orthogonal: the transpose is the inverse, and normal noise stays normal.
  return jnp.where(mask, known @ basis, x @ basis) @ basis.T


def check_mask(mask: Array | np.ndarray, shape: tuple[int, ...]) -> None:
  """Refuses a mask that does not fit data of this shape, or whose values (if known) are not 0 or 1.

  Raises:
    ValueError: says what is wrong with the mask.
  """
  try:
    fits = np.broadcast_shapes(mask.shape, shape) == tuple(shape)
  except ValueError:
    fits = False
  if not fits:
    raise ValueError(f'a mask of shape {mask.shape} does not fit data of shape {tuple(shape)}')
  if not isinstance(mask, jax.core.Tracer) and not np.isin(np.asarray(mask), (0, 1)).all():
    raise ValueError('a mask must hold only 1 (known) and 0 (to be sampled)')


def _check_basis(basis: np.ndarray, channels: int) -> None:
  if basis.shape != (channels, channels) or not np.allclose(basis @ basis.T, np.eye(channels)):
    raise ValueError(
      f'the basis must be an orthogonal matrix for {channels} channels, got shape {basis.shape}'
    )
