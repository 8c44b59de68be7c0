"""Which times are trained on.

A distribution of times is given by its inverse distribution function: u, uniform in [0, 1), becomes
a time. So u can be drawn independently, or spread evenly over a batch.
"""

import dataclasses
from typing import Annotated, Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Key

from common.ranges import ABOVE_ZERO, FINITE, Interval
from diffusion.processes.process import Process, rate

MIN_SHARE = 1e-7  # keeps u away from 0 and 1, where the normal's inverse is infinite


class TimeSample(NamedTuple):
  """The times of a batch.

  Attributes:
    t: the times.
    density: probability density of each time under the distribution that the loss is a mean over,
      after the correction by `importance`; on a discrete process, of the time before rounding.
    importance: weight of each example that corrects the loss to uniform times; 1 if the
      distribution of times is itself meant as a weighting.
  """

  t: Float[Array, 'batch']
  density: Float[Array, 'batch']
  importance: Float[Array, 'batch']


class TimeDistribution:
  """A distribution of training times. Each is a frozen dataclass.

  Attributes:
    stratified: whether u is spread evenly over the batch instead of drawn independently.
    covers_all_times: whether every time of the process can be drawn. A network that is trained at
      one time only has no likelihood: the bound would evaluate it at times it has never seen.
    fixed: whether u stands for the same time throughout training.
  """

  stratified: ClassVar[bool] = False
  covers_all_times: ClassVar[bool] = True
  fixed: ClassVar[bool] = True

  def sample(self, process: Process, u: Float[Array, 'batch'], memory: Any) -> TimeSample:
    """The times at u in [0, 1)."""
    raise NotImplementedError

  def init(self, process: Process) -> Any:
    """The memory before the first step."""
    return ()

  def update(
    self,
    memory: Any,
    process: Process,
    times: TimeSample,
    loss: Float[Array, 'batch'],
    weight: Float[Array, 'batch'],
  ) -> Any:
    """The memory after a batch with these losses; `weight` is 0 for padding."""
    return memory


def uniforms(
  keys: Key[Array, 'batch'],
  key: Key[Array, ''],
  index: Int[Array, 'batch'],
  batch_size: int,
  stratified: bool,
) -> Float[Array, 'batch']:
  """A number in [0, 1) per example, the same however the batch is split.

  Args:
    keys: one key per example.
    key: the key of the batch.
    index: position of each example in the global batch.
    batch_size: size of the global batch.
    stratified: use one common offset and equal distances (modulo 1) instead of independent draws
      (Kingma et al. 2021, appendix I.1).
  """
  if stratified:
    # The batch's key gives the offset and the example's index its place, so the parts of a split
    # batch do not need each other.
    return jnp.mod(jax.random.uniform(key) + index / batch_size, 1.0).astype(jnp.float32)
  return jax.vmap(jax.random.uniform)(keys)


def round_to_table(process: Process, t: Float[Array, 'batch']) -> Float[Array, 'batch']:
  """Rounds times in (0, 1] up to the table of a discrete process; else returns them unchanged."""
  if not process.steps:
    return t
  # Up: the interval ((k − 1)/T, k/T] belongs to entry k, so that each is drawn equally often.
  return jnp.clip(jnp.ceil(t * process.steps), 1, process.steps) / process.steps


def time_range(process: Process) -> tuple[float, float]:
  """The ends of the interval that times are drawn from: t_min, or 0 if discrete, and t_max."""
  return (0.0 if process.steps else process.t_min), process.t_max


@dataclasses.dataclass(frozen=True)
class Uniform(TimeDistribution):
  """Uniform and independent times."""

  def sample(self, process: Process, u: Float[Array, 'batch'], memory: Any) -> TimeSample:
    low, high = time_range(process)
    density = jnp.full_like(u, 1 / (high - low))
    return TimeSample(round_to_table(process, low + (high - low) * u), density, jnp.ones_like(u))


@dataclasses.dataclass(frozen=True)
class LowDiscrepancy(Uniform):
  """Uniform, and spread evenly over the batch (Kingma et al. 2021, appendix I.1)."""

  stratified: ClassVar[bool] = True


@dataclasses.dataclass(frozen=True)
class LogNormal(TimeDistribution):
  """log(σ/α) is normal, cut off at the ends of the process (Karras et al. 2022, table 1).

  Attributes:
    mean, std: mean and standard deviation of log(σ/α).
    stratified: spread the times evenly over the batch, as `low_discrepancy` does.
  """

  mean: Annotated[float, FINITE] = -1.2
  std: Annotated[float, ABOVE_ZERO] = 1.2
  stratified: bool = False

  def sample(self, process: Process, u: Float[Array, 'batch'], memory: Any) -> TimeSample:
    mean, std = self.mean, self.std
    ends = jnp.asarray([process.t_min, process.t_max], u.dtype)
    # log(σ/α) = −λ/2. Inverse of the truncated normal's distribution function.
    low, high = jax.scipy.stats.norm.cdf((-0.5 * process.log_snr(ends) - mean) / std)
    share = jnp.clip(low + (high - low) * u, MIN_SHARE, 1 - MIN_SHARE)
    z = jax.scipy.special.ndtri(share)
    t = round_to_table(process, process.time_of(-2 * (mean + std * z)))
    t = jnp.clip(t, process.t_min, process.t_max)  # time_of is not exact at the ends
    # p(t) = p(z)·dz/dλ·dλ/dt, with z = (−λ/2 − mean)/std.
    normal = jax.scipy.stats.norm.pdf(z) / (high - low)
    density = normal * 0.5 / std * -rate(process.log_snr, t)
    return TimeSample(t, density, jnp.ones_like(u))


@dataclasses.dataclass(frozen=True)
class LogitNormal(TimeDistribution):
  """logit(t), t scaled to (0, 1), is normal (Esser et al. 2024, section 3.1).

  Attributes:
    mean, std: mean and standard deviation of logit(t).
    stratified: spread the times evenly over the batch, as `low_discrepancy` does.
  """

  mean: Annotated[float, FINITE] = 0.0
  std: Annotated[float, ABOVE_ZERO] = 1.0
  stratified: bool = False

  def sample(self, process: Process, u: Float[Array, 'batch'], memory: Any) -> TimeSample:
    low, high = time_range(process)
    # logit(share) = mean + std·z with z standard normal, the inverse distribution function of u.
    z = jax.scipy.special.ndtri(jnp.clip(u, MIN_SHARE, 1 - MIN_SHARE))
    share = jax.nn.sigmoid(self.mean + self.std * z)
    # The derivative of the logit is 1/(share·(1 − share)).
    density = jax.scipy.stats.norm.pdf(z) / (self.std * share * (1 - share)) / (high - low)
    t = round_to_table(process, low + (high - low) * share)
    return TimeSample(t, density, jnp.ones_like(u))


@dataclasses.dataclass(frozen=True)
class Terminal(TimeDistribution):
  """Always the last time: with target x0, a plain regression from noise to the data."""

  covers_all_times: ClassVar[bool] = False

  def sample(self, process: Process, u: Float[Array, 'batch'], memory: Any) -> TimeSample:
    ones = jnp.ones_like(u)
    return TimeSample(jnp.full_like(u, process.t_max), ones, ones)


class LossHistory(NamedTuple):
  """Decayed sums by bucket of time.

  Attributes:
    squares: sums of squared losses.
    counts: numbers of losses.
  """

  squares: Float[Array, 'buckets']
  counts: Float[Array, 'buckets']


@dataclasses.dataclass(frozen=True)
class LossSecondMoment(TimeDistribution):
  """Times in proportion to √E[loss²], learned in training (Nichol & Dhariwal 2021, section 3.3).

  A discrete process has at most one bucket per step. Each bucket averages over about its last
  `history` losses. The times are uniform until the decayed count of every bucket is half of that.

  Attributes:
    buckets: number of equal intervals that times are divided into.
    history: number of losses to average over, in each bucket.
    floor: share of uniform times, mixed in.
  """

  buckets: Annotated[int, Interval(2)] = 100
  history: Annotated[float, ABOVE_ZERO] = 10.0
  floor: Annotated[float, Interval(0, 1, above=True)] = 0.001
  fixed: ClassVar[bool] = False

  def _size(self, process: Process) -> int:
    return min(self.buckets, process.steps) if process.steps else self.buckets

  def init(self, process: Process) -> LossHistory:
    zeros = jnp.zeros(self._size(process), jnp.float32)
    return LossHistory(zeros, zeros)

  def sample(self, process: Process, u: Float[Array, 'batch'], memory: LossHistory) -> TimeSample:
    size = self._size(process)
    low, high = time_range(process)
    # Importance sampling with p ∝ √E[loss²] has the least variance (eq. 18); the floor keeps every
    # bucket sampled, so that its average stays up to date.
    wanted = jnp.sqrt(memory.squares / jnp.maximum(memory.counts, 1e-6))
    wanted = wanted / jnp.maximum(wanted.sum(), 1e-20)
    # The decayed count of a bucket that is hit evenly settles at `history`; half allows for chance.
    ready = jnp.all(memory.counts >= 0.5 * self.history)
    share = jnp.where(ready, (1 - self.floor) * wanted + self.floor / size, 1 / size)
    # Inverse distribution function: the bucket that u falls into, then linear within it.
    ends = jnp.cumsum(share) / share.sum()
    bucket = jnp.clip(jnp.searchsorted(ends, u, side='right'), 0, size - 1)
    within = (u - (ends[bucket] - share[bucket])) / share[bucket]
    position = (bucket + jnp.clip(within, 0, 1)) / size
    t = round_to_table(process, low + (high - low) * position)
    # Corrected to uniform times: a weighting that also divided by these shares would do it twice.
    density = jnp.full_like(u, 1 / (high - low))
    return TimeSample(t, density, 1 / (share[bucket] * size))

  def update(
    self,
    memory: LossHistory,
    process: Process,
    times: TimeSample,
    loss: Float[Array, 'batch'],
    weight: Float[Array, 'batch'],
  ) -> LossHistory:
    size = self._size(process)
    low, high = time_range(process)
    # The bucket of each time, from the time itself: on a discrete process it was rounded.
    position = (times.t - low) / (high - low) * size
    # Discrete times are the upper ends of their buckets; 1e-4 allows for k/T in float32.
    position = jnp.ceil(position - 1e-4) - 1 if process.steps else jnp.floor(position)
    bucket = jnp.clip(position, 0, size - 1).astype(jnp.int32)
    # Each bucket sees weight.sum()/size losses on average, and forgets this share of `history`.
    kept = 1 - jnp.minimum(weight.sum() / (size * self.history), 0.5)
    return LossHistory(
      _decayed_sum(memory.squares, kept, bucket, weight * loss**2),
      _decayed_sum(memory.counts, kept, bucket, weight),
    )


def _decayed_sum(
  total: Float[Array, 'buckets'],
  kept: Float[Array, ''],
  bucket: Int[Array, 'batch'],
  value: Float[Array, 'batch'],
) -> Float[Array, 'buckets']:
  """`total`, decayed by `kept`, with each value added to its bucket. No gradient flows through."""
  return (total * kept).at[bucket].add(jax.lax.stop_gradient(value))
