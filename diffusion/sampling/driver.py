"""Runs any sampler over any grid: one `lax.scan`, which counts network evaluations.

  times = grids...                                # decreasing, [steps + 1], from noise to data
  x, evaluations = sample(DDIM(), process, denoise, times, x, key)

A sampler is a pure step (see `diffusion.sampling.solvers`); `SAMPLERS` names them. The noise of
example i at step n comes from fold_in(fold_in(key, i), n), so a sample does not depend on the
number of samples drawn with it.
"""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Key

from common.method import example_keys
from diffusion.predictions import Denoise, Pair, fold_in_each
from diffusion.processes.process import Process
from diffusion.sampling import multistep, solvers
from diffusion.sampling.guidance import Denoiser, as_denoiser
from diffusion.sampling.solvers import Sampler, Time

SAMPLERS = {
  'adaptive': multistep.Adaptive,
  'ancestral': solvers.Ancestral,
  'ddim': solvers.DDIM,
  'dpmpp_2m': multistep.DPMpp2M,
  'dpmpp_2s': multistep.DPMpp2S,
  'dpmpp_3m_sde': multistep.DPMpp3MSDE,
  'edm': solvers.EDMSampler,
  'euler': solvers.Euler,
  'euler_maruyama': solvers.EulerMaruyama,
  'heun': solvers.Heun,
  'predictor_corrector': solvers.PredictorCorrector,
  'reverse_diffusion': solvers.ReverseDiffusion,
  'unipc': multistep.UniPC,
}

MIN_BUCKET = 16  # steps; grids are padded to powers of two from here on
COST_TIMES = 32  # times within a step at which the cost of a call at an unknown time is looked up


class CountingDenoiser:
  """The denoiser as one step sees it: takes a scalar time, and adds up the cost of its calls.

  It exists while one step is traced; `cost` is an ordinary array that the step's result includes.
  Guidance that depends on the noise level is the same for all calls of a step, except for those of
  a sampler that chooses its own times within the step (`uncounted`).

  Args:
    denoise: the denoiser.
    batch: number of examples.
    noisier: the noisier end of the step, by which guidance is chosen; None: by each call's time.
  """

  def __init__(self, denoise: Denoiser, batch: int, noisier: Time | None = None):
    self._free = denoise
    self._batch = batch
    self._denoise = denoise if noisier is None else denoise.for_step(self._batch_times(noisier))
    self.cost = jnp.zeros((), jnp.int32)

  def __call__(self, x: Array, t: Time) -> Pair:
    """The estimate at time t."""
    self.charge(1, t)
    return self._denoise(x, self._batch_times(t))

  def when(self, needed: Array, x: Array, t: Time, otherwise: Pair) -> Pair:
    """The estimate at time t where it is needed, else `otherwise`, at no cost."""
    # `needed` counts as 0 or 1.
    self.charge(needed, t)
    # A cond, not a select: the network does not run where its estimate is not needed.
    return jax.lax.cond(
      needed, lambda x, t: self._denoise(x, t), lambda *_: otherwise, x, self._batch_times(t)
    )

  def uncounted(self, x: Array, t: Time) -> Pair:
    """The estimate at time t, for a sampler that charges its calls itself."""
    return self._free(x, self._batch_times(t))

  def charge(self, calls: int | Array, t: Time) -> None:
    """Adds the cost of `calls` calls at time t."""
    self.cost = self.cost + jnp.asarray(calls, jnp.int32) * self._denoise.cost(self._batch_times(t))

  def choose(self, free: Array, without: Callable, calling: Callable, x: Array) -> Any:
    """`without(x)`, which calls no network, if `free`; else `calling(x)`, whose calls count."""
    before = self.cost

    def counted(x):
      # The calls are traced inside the cond: its result carries the count out.
      self.cost = before
      return calling(x), self.cost

    result, self.cost = jax.lax.cond(free, lambda x: (without(x), before), counted, x)
    return result

  def charge_between(self, calls: Array, t: Time, s: Time) -> None:
    """Adds the cost of `calls` calls, each at the cost of the most expensive time in [s, t]."""
    # One time after the other: the cost of guidance is that of one time for the whole batch.
    costs = jax.lax.map(
      lambda t: self._free.cost(self._batch_times(t)), jnp.linspace(t, s, COST_TIMES)
    )
    self.cost = self.cost + calls * costs.max()

  def _batch_times(self, t: Time) -> Float[Array, 'batch']:
    return jnp.full((self._batch,), t)


class ReverseChain(NamedTuple):
  """The reverse process, from noise to data, as a sampler discretises it.

  Attributes:
    sampler: takes one step.
    process: the diffusion process.
    denoise: (x, t [batch]) -> Pair, plain or guided.
  """

  sampler: Sampler
  process: Process
  denoise: Denoise


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
    sampler: takes one step: a value of `SAMPLERS`, called.
    process: the diffusion process.
    denoise: (x, t [batch]) -> Pair, plain or guided (see `diffusion.sampling.guidance`).
    times: decreasing times [steps + 1], at least two, the last of them >= 0. Checked here unless
      traced; a jitted function's caller checks them, with `check_times` or `padded`.
    x: the start: at t_max, noise of the process's prior_std.
    key: the key of all random numbers, or one key per example.
    num_steps: number of steps to take, if `times` is padded (see `padded`). If it is traced, all
      numbers of steps share a compiled program; the steps left out call no network.
    final_denoise: return the clean estimate at the last time, at the cost of one more call. Has no
      effect on a grid that ends at time 0.

  Returns:
    x at the last time, and network evaluations per example: the cost of each call of `denoise`,
    summed over the calls that were made.

  Raises:
    ValueError: for an empty, negative or non-decreasing grid, or a number of steps outside it.
  """
  if not isinstance(times, jax.core.Tracer):
    check_times(times, num_steps)
  chain = ReverseChain(sampler, process, denoise)
  x, count, _ = drive(chain, times, x, key, num_steps=num_steps, final_denoise=final_denoise)
  return x, count


def trajectory(
  sampler: Sampler,
  process: Process,
  denoise: Denoise,
  times: Any,
  x: Float[Array, 'batch ...'],
  key: Key[Array, ''] | Key[Array, 'batch'],
) -> tuple[Float[Array, 'time batch ...'], Int[Array, '']]:
  """Like `sample`, but returns x at every time of the grid: steps + 1 times the memory.

  Raises:
    ValueError: as `sample`.
  """
  if not isinstance(times, jax.core.Tracer):
    check_times(times)
  _, count, path = drive(ReverseChain(sampler, process, denoise), times, x, key, record=True)
  return jnp.concatenate([x[None].astype(path.dtype), path]), count


class _LoopState(NamedTuple):
  """x, the sampler's own carry, and the network evaluations so far."""

  x: Array
  carry: Any
  evaluations: Int[Array, '']


@dataclasses.dataclass(frozen=True, eq=False)
class _Loop:
  """The body of the loop over the times.

  Attributes:
    chain: the sampler, the process and the denoiser.
    times: [steps + 1].
    keys: [batch].
    num_steps: number of steps to take, or None for all.
    record: whether to return x after every step.
  """

  chain: ReverseChain
  times: Float[Array, 'times']
  keys: Key[Array, 'batch']
  num_steps: Any
  record: bool

  def advance(self, state: _LoopState, index: Int[Array, '']) -> _LoopState:
    """One step, from times[index] to times[index + 1]."""
    sampler, process, denoise = self.chain
    # The step's index, not the carry, makes the key: the same with padding and without.
    keys = fold_in_each(self.keys, index)
    t, s = self.times[index], self.times[index + 1]
    counting = CountingDenoiser(denoise, state.x.shape[0], jnp.maximum(t, s))
    x, carry = sampler.step(process, state.x, t, s, counting, keys, state.carry)
    return _LoopState(x, carry, state.evaluations + counting.cost)

  def body(self, state: _LoopState, index: Int[Array, '']) -> tuple[_LoopState, Array | None]:
    """The body as `lax.scan` calls it: padding changes nothing and calls no network."""
    if self.num_steps is None:
      state = self.advance(state, index)
    else:
      state = jax.lax.cond(index < self.num_steps, self.advance, _skip, state, index)
    return state, state.x if self.record else None


def _skip(state: _LoopState, _: Array) -> _LoopState:
  return state


def drive(
  chain: ReverseChain,
  times: Any,
  x: Float[Array, 'batch ...'],
  key: Key[Array, ''] | Key[Array, 'batch'],
  *,
  num_steps: int | Int[Array, ''] | None = None,
  final_denoise: bool = False,
  record: bool = False,
) -> tuple[Array, Array, Array | None]:
  """The loop of `sample` over any sequence of times, unchecked; times may also rise.

  Returns:
    x at the end, network evaluations, and x after every step if `record`, else None.
  """
  sampler, process, denoise = chain
  # Sampling runs in float32 or more, also for data of lower precision.
  x = x.astype(jnp.promote_types(x.dtype, jnp.float32))
  times = jnp.asarray(times, x.dtype)
  batch, length = x.shape[0], times.shape[0] - 1
  steps = length if num_steps is None else num_steps
  chain = chain._replace(denoise=as_denoiser(denoise))
  # One key per example, from its position: samples do not depend on the number drawn together.
  keys = key if key.ndim else example_keys(key, jnp.arange(batch))
  # One scan over the indices of the grid, compiled once for all steps.
  loop = _Loop(chain, times, keys, num_steps, record)
  start = _LoopState(x, sampler.init(x, steps), jnp.zeros((), jnp.int32))
  (x, _, count), path = jax.lax.scan(loop.body, start, jnp.arange(length))
  if final_denoise:
    # At time 0, x is already clean: the call is neither made nor counted.
    counting, last = CountingDenoiser(chain.denoise, batch), times[steps]
    x = sampler.finish(counting.when(process.sigma(last) > 0, x, last, Pair(x, x)).x0)
    count = count + counting.cost
  return x, count, path


def check_times(times: Any, num_steps: int | Array | None = None) -> None:
  """Refuses a grid that is empty, negative, not finite, or does not decrease.

  Args:
    times: [steps + 1], with padding after `num_steps` steps.
    num_steps: as in `sample`.

  Raises:
    ValueError: says what is wrong with the grid.
  """
  times = np.asarray(times)
  if times.ndim != 1 or len(times) < 2:
    raise ValueError(f'sampling needs at least one step, got times of shape {times.shape}')
  traced = isinstance(num_steps, jax.core.Tracer)
  if num_steps is not None and not traced:
    if not 1 <= num_steps < len(times):
      raise ValueError(f'num_steps must be in [1, {len(times) - 1}] for this grid, got {num_steps}')
    times = times[: int(num_steps) + 1]
  if not np.isfinite(times).all() or times.min() < 0:
    raise ValueError(f'times must be finite and at least 0, got {_shown(times)}')
  steps = np.diff(times)
  # With a traced number of steps the padding, whose times repeat, cannot be told apart.
  if (steps > 0).any() or (not traced and (steps == 0).any()):
    raise ValueError(f'times must decrease at every step, got {_shown(times)}')


def _shown(times: np.ndarray) -> str:
  return np.array2string(times, threshold=8, edgeitems=4, precision=4)


def padded(times: Any) -> tuple[np.ndarray, int]:
  """A grid padded to a power of two of steps, and its number of steps without padding.

  Grids padded to the same length share a compiled program.

  Raises:
    ValueError: as `check_times`.
  """
  check_times(times)
  times = np.asarray(times)
  # The next power of two; the padding repeats the last time, and `_Loop.body` skips it.
  steps = len(times) - 1
  length = max(MIN_BUCKET, 1 << (steps - 1).bit_length())
  return np.pad(times, (0, length - steps), mode='edge'), steps
