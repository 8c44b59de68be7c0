"""Which times are trained on, and how much each counts.

A loss is a mean over examples of W·‖x₀ − x̂₀‖² per dimension, at times t drawn from some density,
where W is a weighting *of the error in x₀*. A network that predicts another target y = a·x₀ + b·ε
has ‖y − ŷ‖² = (Δ/σ)²·‖x₀ − x̂₀‖² with Δ = α·b − σ·a, so that its error is weighted by W·(σ/Δ)²:
each weighting is written once and means the same for every target. In terms of SNR = α²/σ²:

  weighting      W                                          source
  simple         (Δ/σ)²: the target's own error, unweighted Ho et al. 2020, eq. 14
  snr            SNR: the error in ε, unweighted
  snr_plus_one   SNR + 1                                    Salimans & Ho 2022, section 4
  truncated_snr  max(SNR, 1)                                Salimans & Ho 2022, section 4
  min_snr        min(SNR, γ)                                Hang et al. 2023
  soft_min_snr   γ·SNR/(SNR + γ)                            Crowson et al. 2024
  p2             SNR/(k + SNR)^γ                            Choi et al. 2022
  sigmoid        SNR·sigmoid(b − log SNR)                   Kingma & Gao 2023
  edm            SNR + 1/σ_d²                               Karras et al. 2022, table 1
  vlb            −½·SNR·dλ/dt / density of t                Kingma et al. 2021, eq. 17
  likelihood     −SNR·dλ/dt / density of t = 2·vlb: g² times the error in the score
                                                            Song et al. 2021b
"""

import dataclasses
import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from common.config import ConfigError
from diffusion.predictions import Pair, determinant
from diffusion.processes.process import Process, rate


class Point(NamedTuple):
  """What a weighting knows of each example's time. Each entry is [batch].

  Attributes:
    log_snr: λ.
    own: (Δ/σ)², which makes an error in x0 one in the target.
    speed: −dλ/dt over the density of t: the weight of a log-SNR integral.
  """

  log_snr: Float[Array, 'batch']
  own: Float[Array, 'batch']
  speed: Float[Array, 'batch']


Weighting = Callable[[Point], Float[Array, 'batch']]


def _positive(name: str, **values: float) -> None:
  for setting, value in values.items():
    if not value > 0:
      raise ConfigError(f'objective.weighting.{setting}={value} of {name!r} must be positive')


def _simple() -> Weighting:
  return lambda at: at.own


def _snr() -> Weighting:
  return lambda at: jnp.exp(at.log_snr)


def _snr_plus_one() -> Weighting:
  return lambda at: jnp.exp(at.log_snr) + 1


def _truncated_snr() -> Weighting:
  return lambda at: jnp.maximum(jnp.exp(at.log_snr), 1)


def _min_snr(gamma: float = 5.0) -> Weighting:
  _positive('min_snr', gamma=gamma)
  return lambda at: jnp.minimum(jnp.exp(at.log_snr), gamma)


def _soft_min_snr(gamma: float = 4.0) -> Weighting:
  _positive('soft_min_snr', gamma=gamma)
  return lambda at: gamma * jax.nn.sigmoid(at.log_snr - math.log(gamma))


def _p2(k: float = 1.0, gamma: float = 1.0) -> Weighting:
  _positive('p2', k=k)
  return lambda at: jnp.exp(at.log_snr) / (k + jnp.exp(at.log_snr)) ** gamma


def _sigmoid(bias: float = 2.0) -> Weighting:
  return lambda at: jnp.exp(at.log_snr) * jax.nn.sigmoid(bias - at.log_snr)


def _edm(sigma_data: float = 0.5) -> Weighting:
  _positive('edm', sigma_data=sigma_data)
  return lambda at: jnp.exp(at.log_snr) + 1 / sigma_data**2


def _vlb() -> Weighting:
  return lambda at: 0.5 * jnp.exp(at.log_snr) * at.speed


def _likelihood() -> Weighting:
  return lambda at: jnp.exp(at.log_snr) * at.speed


WEIGHTINGS = {
  'simple': _simple,
  'snr': _snr,
  'snr_plus_one': _snr_plus_one,
  'truncated_snr': _truncated_snr,
  'min_snr': _min_snr,
  'soft_min_snr': _soft_min_snr,
  'p2': _p2,
  'sigmoid': _sigmoid,
  'edm': _edm,
  'vlb': _vlb,
  'likelihood': _likelihood,
}


def target_weight(
  weighting: Weighting,
  process: Process,
  pair: Pair,
  t: Float[Array, 'batch'],
  density: Float[Array, 'batch'],
) -> Float[Array, 'batch']:
  """The factor of a target's squared error: W·(σ/Δ)².

  Args:
    weighting: W, of the error in x0.
    process: the diffusion process.
    pair: the target's coefficients at t.
    t: times.
    density: of the distribution that t was drawn from.
  """
  alpha, sigma = process.alpha(t), process.sigma(t)
  own = (determinant(pair, alpha, sigma) / sigma) ** 2
  speed = -rate(process.log_snr, t) / density
  return weighting(Point(process.log_snr(t), own, speed)) / own


class Draw(NamedTuple):
  """Times of a batch.

  Attributes:
    t: the times.
    density: their probability density; on a discrete process that of t before it was rounded.
    correction: by how much to weight each example so that the loss is that of uniform times; 1
      where the distribution of times is meant as a weighting of its own.
  """

  t: Float[Array, 'batch']
  density: Float[Array, 'batch']
  correction: Float[Array, 'batch']


def _nothing(process: Process) -> Any:
  return ()


def _forget(memory, process, draw, loss, weight) -> Any:
  return memory


@dataclasses.dataclass(frozen=True)
class Times:
  """A distribution of training times, by its inverse distribution function.

  Attributes:
    draw: (process, u [batch] in [0, 1), memory) -> Draw.
    stratified: whether u are spread evenly over the batch in place of independent.
    init: process -> memory.
    update: (memory, process, draw, loss [batch], weight [batch]) -> memory.
  """

  draw: Callable[[Process, Array, Any], Draw]
  stratified: bool = False
  init: Callable[[Process], Any] = _nothing
  update: Callable[..., Any] = _forget


def on_table(process: Process, t: Float[Array, 'batch']) -> Float[Array, 'batch']:
  """Rounds times in (0, 1] up to the table of a discrete process; else as they are."""
  if not process.steps:
    return t
  return jnp.clip(jnp.ceil(t * process.steps), 1, process.steps) / process.steps


def _range(process: Process) -> tuple[float, float]:
  """Where times are drawn: from t_min, or on a discrete process 0, to t_max."""
  return (0.0 if process.steps else process.t_min), process.t_max


def _uniform_draw(process: Process, u: Array, memory: Any) -> Draw:
  low, high = _range(process)
  density = jnp.full_like(u, 1 / (high - low))
  return Draw(on_table(process, low + (high - low) * u), density, jnp.ones_like(u))


def _uniform() -> Times:
  return Times(_uniform_draw)


def _low_discrepancy() -> Times:
  """Uniform, and spread evenly over the batch (Kingma et al. 2021, appendix I.1)."""
  return Times(_uniform_draw, stratified=True)


def _log_normal(mean: float = -1.2, std: float = 1.2) -> Times:
  """log(σ/α) is normal, cut off at the ends of the process (Karras et al. 2022, table 1)."""
  _positive_std('log_normal', std)

  def draw(process, u, memory):
    ends = jnp.asarray([process.t_min, process.t_max], u.dtype)
    low, high = jax.scipy.stats.norm.cdf((-0.5 * process.log_snr(ends) - mean) / std)
    share = jnp.clip(low + (high - low) * u, 1e-7, 1 - 1e-7)
    z = jax.scipy.special.ndtri(share)
    t = on_table(process, process.time_of(-2 * (mean + std * z)))
    t = jnp.clip(t, process.t_min, process.t_max)
    normal = jax.scipy.stats.norm.pdf(z) / (high - low)
    density = normal * 0.5 / std * -rate(process.log_snr, t)
    return Draw(t, density, jnp.ones_like(u))

  return Times(draw)


def _logit_normal(mean: float = 0.0, std: float = 1.0) -> Times:
  """logit(t), t scaled to (0, 1), is normal (Esser et al. 2024, section 3.1)."""
  _positive_std('logit_normal', std)

  def draw(process, u, memory):
    low, high = _range(process)
    z = jax.scipy.special.ndtri(jnp.clip(u, 1e-7, 1 - 1e-7))
    share = jax.nn.sigmoid(mean + std * z)
    density = jax.scipy.stats.norm.pdf(z) / (std * share * (1 - share)) / (high - low)
    return Draw(on_table(process, low + (high - low) * share), density, jnp.ones_like(u))

  return Times(draw)


def _positive_std(name: str, std: float) -> None:
  if not std > 0:
    raise ConfigError(f'objective.times.std={std} of {name!r} must be positive')


def _terminal() -> Times:
  """Always the last time: with target x0 a plain regression from noise to the data."""

  def draw(process, u, memory):
    ones = jnp.ones_like(u)
    return Draw(jnp.full_like(u, process.t_max), ones, ones)

  return Times(draw)


class LossHistory(NamedTuple):
  """Decayed sums by bucket of time."""

  squares: Float[Array, 'buckets']
  counts: Float[Array, 'buckets']


def _loss_second_moment(buckets: int = 100, history: float = 10.0, floor: float = 0.001) -> Times:
  """Times in proportion to √E[loss²], learned on the way (Nichol & Dhariwal 2021, section 3.3).

  A discrete process has at most one bucket per step. Until every bucket has seen `history`
  losses the times are uniform. Each bucket averages over about its last `history` losses.

  Args:
    buckets: into which times are cut.
    history: losses to average over, in each bucket.
    floor: share of uniform times, mixed in.
  """
  if buckets < 2 or not 0 < floor <= 1:
    raise ConfigError(
      f'objective.times of loss_second_moment: buckets={buckets} must be at least 2 and'
      f' floor={floor} in (0, 1]'
    )

  def number(process):
    return min(buckets, process.steps) if process.steps else buckets

  def init(process):
    zeros = jnp.zeros(number(process), jnp.float32)
    return LossHistory(zeros, zeros)

  def draw(process, u, memory):
    size = number(process)
    low, high = _range(process)
    wanted = jnp.sqrt(memory.squares / jnp.maximum(memory.counts, 1e-6))
    wanted = wanted / jnp.maximum(wanted.sum(), 1e-20)
    ready = jnp.all(memory.counts >= 0.5 * history)
    share = jnp.where(ready, (1 - floor) * wanted + floor / size, 1 / size)
    ends = jnp.cumsum(share) / share.sum()
    bucket = jnp.clip(jnp.searchsorted(ends, u, side='right'), 0, size - 1)
    within = (u - (ends[bucket] - share[bucket])) / share[bucket]
    position = (bucket + jnp.clip(within, 0, 1)) / size
    density = share[bucket] * size / (high - low)
    t = on_table(process, low + (high - low) * position)
    return Draw(t, density, 1 / (share[bucket] * size))

  def update(memory, process, draw, loss, weight):
    size = number(process)
    low, high = _range(process)
    position = (draw.t - low) / (high - low) * size
    position = jnp.ceil(position - 1e-4) - 1 if process.steps else jnp.floor(position)
    bucket = jnp.clip(position, 0, size - 1).astype(jnp.int32)
    kept = 1 - jnp.minimum(weight.sum() / (size * history), 0.5)
    add = lambda total, value: (total * kept).at[bucket].add(jax.lax.stop_gradient(value))
    return LossHistory(add(memory.squares, weight * loss**2), add(memory.counts, weight))

  return Times(draw, init=init, update=update)


TIMES = {
  'uniform': _uniform,
  'low_discrepancy': _low_discrepancy,
  'log_normal': _log_normal,
  'logit_normal': _logit_normal,
  'loss_second_moment': _loss_second_moment,
  'terminal': _terminal,
}


def uniforms(
  keys: Array, key: Array, index: Int[Array, 'batch'], batch_size: int, stratified: bool
) -> Float[Array, 'batch']:
  """A number in [0, 1) per example, the same however the batch is split.

  Args:
    keys: one key per example.
    key: the batch's.
    index: position of each example in the global batch.
    batch_size: of the global batch.
    stratified: one common offset and equal distances (modulo 1), in place of independent draws.
  """
  if stratified:
    return jnp.mod(jax.random.uniform(key) + index / batch_size, 1.0).astype(jnp.float32)
  return jax.vmap(jax.random.uniform)(keys)


def uncertainty_init(width: int = 128) -> Mapping[str, Array]:
  """Parameters of the learned uncertainty; it starts at u = 0."""
  return {'kernel': jnp.zeros((width,), jnp.float32)}


def uncertainty(
  params: Mapping[str, Array], log_snr: Float[Array, 'batch']
) -> Float[Array, 'batch']:
  """u(λ), the logarithm of the expected loss at each noise level (EDM2, eq. 14-15).

  A loss ℓ becomes ℓ/exp(u) + u, whose best u is log E[ℓ]: every noise level then counts alike. u
  is linear in fixed random Fourier features of log(σ/α)/4.
  """
  width = params['kernel'].shape[0]
  first, second = jax.random.split(jax.random.key(0))
  frequencies = 2 * math.pi * jax.random.normal(first, (width,))
  phases = 2 * math.pi * jax.random.uniform(second, (width,))
  features = jnp.cos(-0.125 * log_snr[:, None] * frequencies + phases)
  return features @ params['kernel'] * math.sqrt(2 / width)
