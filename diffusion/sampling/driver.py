"""Runs any sampler over any grid: one `lax.scan`, which counts network evaluations.

  times = grids...                                # decreasing, [steps + 1], from noise to data
  x, evaluations = sample(ddim(), process, denoise, times, x, key)

A sampler is a pure step (see `diffusion.solvers`); `SAMPLERS` names them. The noise of example i at
step n is that of fold_in(fold_in(key, i), n), so a sample does not depend on how many are drawn
beside it.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Key

from common.method import example_keys
from diffusion.predictions import Denoise, Pair
from diffusion.processes.process import Process
from diffusion.sampling import multistep, solvers
from diffusion.sampling.guidance import Denoiser, as_denoiser
from diffusion.sampling.solvers import Sampler

SAMPLERS = {
  'adaptive': multistep.adaptive,
  'ancestral': solvers.ancestral,
  'ddim': solvers.ddim,
  'dpmpp_2m': multistep.dpmpp_2m,
  'dpmpp_2s': multistep.dpmpp_2s,
  'dpmpp_3m_sde': multistep.dpmpp_3m_sde,
  'edm': solvers.edm,
  'euler': solvers.euler,
  'euler_maruyama': solvers.euler_maruyama,
  'heun': solvers.heun,
  'predictor_corrector': solvers.predictor_corrector,
  'reverse_diffusion': solvers.reverse_diffusion,
  'unipc': multistep.unipc,
}

SMALLEST_BUCKET = 16


class Counter:
  """The denoiser as one step sees it: takes a scalar time, and adds up what its calls cost.

  Lives for the tracing of one step; `cost` is an ordinary array that the step's result includes.
  """

  def __init__(self, denoise: Denoiser, batch: int):
    self._denoise = denoise
    self._batch = batch
    self.cost = jnp.zeros((), jnp.int32)

  def __call__(self, x: Array, t: Float[Array, '']) -> Pair:
    """The estimate at time t."""
    self.charge(1, t)
    return self._denoise(x, self._times(t))

  def when(self, needed: Array, x: Array, t: Float[Array, ''], otherwise: Pair) -> Pair:
    """The estimate at time t where it is needed, else `otherwise`, at no cost."""
    self.charge(needed, t)
    return jax.lax.cond(
      needed, lambda x, t: self._denoise(x, t), lambda *_: otherwise, x, self._times(t)
    )

  def uncounted(self, x: Array, t: Float[Array, '']) -> Pair:
    """The estimate at time t, for a sampler that charges its calls itself."""
    return self._denoise(x, self._times(t))

  def charge(self, calls: int | Array, t: Float[Array, '']) -> None:
    """Counts that many calls at time t."""
    self.cost = self.cost + jnp.asarray(calls, jnp.int32) * self._denoise.cost(self._times(t))

  def choose(self, free: Array, one: Callable, other: Callable, x: Array) -> Any:
    """`one(x)`, which calls no network, or `other(x)`, of which the calls are counted."""
    before = self.cost

    def counted(x):
      self.cost = before
      return other(x), self.cost

    result, self.cost = jax.lax.cond(free, lambda x: (one(x), before), counted, x)
    return result

  def charge_between(self, calls: Array, t: Float[Array, ''], s: Float[Array, '']) -> None:
    """Counts that many calls at unknown times, each as the dearest from t to s."""
    costs = jax.lax.map(lambda t: self._denoise.cost(self._times(t)), jnp.linspace(t, s, 32))
    self.cost = self.cost + calls * costs.max()

  def _times(self, t):
    return jnp.full((self._batch,), t)


def sample(
  sampler: Sampler,
  process: Process,
  denoise: Denoise,
  times: Any,
  x: Float[Array, 'batch ...'],
  key: Key[Array, ''] | Key[Array, 'batch'],
  *,
  num_steps: int | Int[Array, ''] | None = None,
  final_denoise: bool = False,
) -> tuple[Float[Array, 'batch ...'], Int[Array, '']]:
  """Takes x from times[0] to the grid's end. Pure: jit it, or call it within a jitted function.

  Args:
    sampler: what takes one step: a value of `SAMPLERS`, called.
    process: the diffusion process.
    denoise: (x, t [batch]) -> Pair, plain or guided (see `diffusion.guidance`).
    times: decreasing times [steps + 1], at least two, the last of them >= 0. Checked here unless
      traced; inside a jitted function the caller has checked them, with `check_times` or `padded`.
    x: where to start: at t_max, noise of the process's prior_std.
    key: for all randomness; or one key per example.
    num_steps: how many of the steps to take, where `times` is padded (see `padded`). May be
      traced: another number of steps is then the same compiled program, and the steps left out
      call no network.
    final_denoise: return the clean estimate at the last time, for one more call. Of no effect on
      a grid that ends at time 0.

  Returns:
    x at the last time, and network evaluations per example: what each call of `denoise` costs,
    summed over the calls that were made.

  Raises:
    ValueError: for an empty, negative or non-decreasing grid, or a number of steps outside it.
  """
  x, count, _ = _run(sampler, process, denoise, times, x, key, num_steps, final_denoise, False)
  return x, count


def trajectory(
  sampler: Sampler,
  process: Process,
  denoise: Denoise,
  times: Any,
  x: Float[Array, 'batch ...'],
  key: Key[Array, ''] | Key[Array, 'batch'],
) -> tuple[Float[Array, 'time batch ...'], Int[Array, '']]:
  """As `sample`, but x at every time of the grid, the first included: steps + 1 times the memory.

  Raises:
    ValueError: as `sample`.
  """
  _, count, path = _run(sampler, process, denoise, times, x, key, None, False, True)
  return jnp.concatenate([x[None].astype(path.dtype), path]), count


def _run(sampler, process, denoise, times, x, key, num_steps, final_denoise, record):
  if not isinstance(times, jax.core.Tracer):
    check_times(times, num_steps)
  return drive(sampler, process, denoise, times, x, key, num_steps, final_denoise, record)


def drive(
  sampler: Sampler,
  process: Process,
  denoise: Denoise,
  times: Any,
  x: Float[Array, 'batch ...'],
  key: Key[Array, ''] | Key[Array, 'batch'],
  num_steps: int | Int[Array, ''] | None = None,
  final_denoise: bool = False,
  record: bool = False,
) -> tuple[Array, Array, Array | None]:
  """The loop of `sample`, over any sequence of times, unchecked: they may also rise.

  Returns:
    x at the end, network evaluations, and x after every step if `record`, else None.
  """
  x = x.astype(jnp.promote_types(x.dtype, jnp.float32))
  times = jnp.asarray(times, x.dtype)
  batch, length = x.shape[0], times.shape[0] - 1
  steps = length if num_steps is None else num_steps
  denoise = as_denoiser(denoise)
  keys = key if key.ndim else example_keys(key, jnp.arange(batch))

  def advance(state, index):
    x, carry, count = state
    counter = Counter(denoise, batch)
    key = jax.vmap(jax.random.fold_in, (0, None))(keys, index)
    x, carry = sampler.step(process, x, times[index], times[index + 1], counter, key, carry)
    return x, carry, count + counter.cost

  def body(state, index):
    if num_steps is None:
      state = advance(state, index)
    else:
      state = jax.lax.cond(index < steps, advance, lambda state, _: state, state, index)
    return state, state[0] if record else None

  start = x, sampler.init(x, steps), jnp.zeros((), jnp.int32)
  (x, _, count), path = jax.lax.scan(body, start, jnp.arange(length))
  if final_denoise:
    counter, last = Counter(denoise, batch), times[steps]
    x = counter.when(process.sigma(last) > 0, x, last, Pair(x, x)).x0
    count = count + counter.cost
  return x, count, path


def check_times(times: Any, num_steps: int | Array | None = None) -> None:
  """Refuses a grid that is empty, negative, not finite, or does not decrease.

  Args:
    times: [steps + 1], with padding after `num_steps` steps.
    num_steps: as in `sample`.

  Raises:
    ValueError: what is wrong with it.
  """
  times = np.asarray(times)
  if times.ndim != 1 or len(times) < 2:
    raise ValueError(f'sampling needs at least one step: times of shape {times.shape}')
  traced = isinstance(num_steps, jax.core.Tracer)
  if num_steps is not None and not traced:
    if not 1 <= num_steps < len(times):
      raise ValueError(f'num_steps={num_steps} must be in [1, {len(times) - 1}], the grid given')
    times = times[: int(num_steps) + 1]
  if not np.isfinite(times).all() or times.min() < 0:
    raise ValueError(f'times must be finite and at least 0, not {_shown(times)}')
  steps = np.diff(times)
  if (steps > 0).any() or (not traced and (steps == 0).any()):
    raise ValueError(f'times must decrease at every step, not {_shown(times)}')


def _shown(times: np.ndarray) -> str:
  return np.array2string(times, threshold=8, edgeitems=4, precision=4)


def padded(times: Any) -> tuple[np.ndarray, int]:
  """A grid padded to a power of two of steps, and its own number of steps, for `sample`.

  Grids padded to the same length share a compiled program.

  Raises:
    ValueError: as `check_times`.
  """
  check_times(times)
  times = np.asarray(times)
  steps = len(times) - 1
  length = max(SMALLEST_BUCKET, 1 << (steps - 1).bit_length())
  return np.pad(times, (0, length - steps), mode='edge'), steps
