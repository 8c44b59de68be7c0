"""One-step samplers: from x at time t to x at time s, knowing nothing but the denoiser.

A sampler's step is a pure function (process, x, t, s, denoise, key, carry) -> (x, carry). `t` and
`s` are scalars. `denoise(x, t)` gives a `Pair` and counts what it costs; `denoise.when(...)` is the
same behind a condition. `key` holds one key per example. A sampler knows no network, no guidance
and no kind of process: everything is α, σ and λ = log(α²/σ²) of the process.

Steps that end at time 0, where σ = 0, end on the estimate of clean data.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from diffusion.predictions import Pair, normal_like, velocity
from diffusion.processes.process import Process

Times = Float[Array, '']


class Sampler(NamedTuple):
  """A way from noise to data.

  Attributes:
    step: (process, x, t, s, denoise, key, carry) -> (x, carry), pure.
    init: (x, steps) -> the first carry; `steps` may be traced.
    evaluations: steps -> calls of the denoiser on a grid that ends at time 0, or None where the
      sampler decides for itself (adaptive). `samplers.sample` counts the calls it made.
    deterministic: whether the key has no effect, so that the sampler also runs backwards.
  """

  step: Callable[..., tuple[Array, Any]]
  init: Callable[[Array, Any], Any] = lambda x, steps: ()
  evaluations: Callable[[int], int] | None = lambda steps: steps
  deterministic: bool = False


def split_keys(keys: Key[Array, 'batch'], use: int) -> Key[Array, 'batch']:
  """Keys for one of several uses within a step."""
  return jax.vmap(jax.random.fold_in, (0, None))(keys, use)


def refuse_outside(what: str, value: float, low: float, high: float) -> None:
  """Raises ValueError unless low <= value <= high."""
  if not low <= value <= high:
    raise ValueError(f'{what}={value} must be in [{low:g}, {high:g}]')


def ddim(eta: float = 0.0) -> Sampler:
  """DDIM (Song et al. 2020, eq. 12 and 16). eta 0 is deterministic, 1 is ancestral (small).

  Raises:
    ValueError: when eta is outside [0, 1].
  """
  refuse_outside('ddim.eta', eta, 0.0, 1.0)

  def step(process, x, t, s, denoise, key, carry):
    pair = denoise(x, t)
    alpha, sigma = process.alpha(s), process.sigma(s)
    if eta == 0:
      return alpha * pair.x0 + sigma * pair.eps, carry
    share = eta**2 * process.lost(t, s)
    mean = alpha * pair.x0 + sigma * jnp.sqrt(1 - share) * pair.eps
    return mean + sigma * jnp.sqrt(share) * normal_like(key, x), carry

  return Sampler(step, deterministic=eta == 0)


VARIANCES = ('fixed_small', 'fixed_large', 'learned')


def ancestral(variance: str = 'fixed_small') -> Sampler:
  """Draws from q(x_s | x_t, x0) at the estimated x0 (Ho et al. 2020, algorithm 2, eq. 6-7).

  Args:
    variance: of the reverse step. 'fixed_small' is that of q(x_s | x_t, x0), DDPM's β̃;
      'fixed_large' that of q(x_t | x_s), DDPM's β; 'learned' lies between them, on a log scale,
      at the `range` that the denoiser gives (Nichol & Dhariwal 2021, eq. 15).

  Raises:
    ValueError: for another variance, or a 'learned' one of a denoiser that has none.
  """
  if variance not in VARIANCES:
    raise ValueError(f'ancestral.variance={variance!r}; known: {", ".join(VARIANCES)}')

  def step(process, x, t, s, denoise, key, carry):
    pair = denoise(x, t)
    share = process.lost(t, s)
    sigma_t, sigma_s = process.sigma(t), process.sigma(s)
    old = process.alpha(t) / process.alpha(s) * (sigma_s / sigma_t) ** 2
    mean = old * x + process.alpha(s) * share * pair.x0
    # Both bounds are a standard deviation √share·σ; a step to clean data adds no noise.
    small = jnp.where(sigma_s > 0, sigma_s, 1)
    if variance == 'learned':
      scale = jnp.exp(_range(pair) * jnp.log(sigma_t / small)) * small
    else:
      scale = small if variance == 'fixed_small' else sigma_t
    std = jnp.where(sigma_s > 0, jnp.sqrt(share) * scale, 0)
    return mean + std * normal_like(key, x), carry

  return Sampler(step)


def _range(pair: Pair) -> Array:
  if pair.range is None:
    raise ValueError("ancestral.variance='learned', but the model learns none; use 'fixed_small'")
  return pair.range


def _unless_clean(process: Process, s: Times, x: Array, pair: Pair) -> Array:
  """x, or the clean estimate where s is time 0."""
  return jnp.where(process.sigma(s) > 0, x, process.alpha(s) * pair.x0)


def euler() -> Sampler:
  """Euler's method on the probability flow in time t: first order, one evaluation.

  (In σ/α in place of t, Euler's method is DDIM.)
  """

  def step(process, x, t, s, denoise, key, carry):
    pair = denoise(x, t)
    moved = x + (s - t) * velocity(process, pair, t)
    return _unless_clean(process, s, moved, pair), carry

  return Sampler(step, deterministic=True)


SPACES = ('time', 'ratio')


def heun(space: str = 'time') -> Sampler:
  """Heun's method on the probability flow: second order, two evaluations.

  Karras et al. 2022, algorithm 1. A step to clean data is Euler's, with one evaluation.

  Args:
    space: the variable of integration. 'time' works for every process; 'ratio' is σ/α, smoother
      where σ is not smooth in time (VP linear near 0), not to be used where α comes near 0
      (rectified flow, cosine). For EDM, where σ = t and α = 1, they are the same.

  Raises:
    ValueError: for another space.
  """
  if space not in SPACES:
    raise ValueError(f'heun.space={space!r}; known: {", ".join(SPACES)}')
  advance = _heun_ratio if space == 'ratio' else _heun_time

  def step(process, x, t, s, denoise, key, carry):
    return advance(process, x, t, s, denoise), carry

  return Sampler(step, evaluations=lambda steps: 2 * steps - 1, deterministic=True)


def _heun_time(process, x, t, s, denoise):
  first = denoise(x, t)
  slope = velocity(process, first, t)
  moved = x + (s - t) * slope
  # At clean data the second slope is not asked for: any pair will do.
  second = denoise.when(process.sigma(s) > 0, moved, s, first)
  later = jnp.where(process.sigma(s) > 0, s, t)
  corrected = x + (s - t) * 0.5 * (slope + velocity(process, second, later))
  return _unless_clean(process, s, corrected, first)


def _heun_ratio(process, x, t, s, denoise):
  first = denoise(x, t)
  alpha, sigma = process.alpha(s), process.sigma(s)
  moved = alpha * first.x0 + sigma * first.eps
  second = denoise.when(sigma > 0, moved, s, first)
  # x/α moves by h·(eps₁ + eps₂)/2 with h the change of σ/α; `moved` has taken h·eps₁.
  # From pure noise σ/α is infinite, and the step stays DDIM's.
  before = process.alpha(t)
  step = sigma - alpha * process.sigma(t) / jnp.where(before > 0, before, jnp.inf)
  step = jnp.where(before > 0, step, 0)
  return moved + 0.5 * step * (second.eps - first.eps)


def edm(
  s_churn: float = 0.0, s_tmin: float = 0.0, s_tmax: float = float('inf'), s_noise: float = 1.0
) -> Sampler:
  """Heun's method with added noise (Karras et al. 2022, algorithm 2), in σ/α for any process.

  Args:
    s_churn: how much noise is added over all steps; 0 is deterministic.
    s_tmin, s_tmax: noise levels σ/α between which it is added.
    s_noise: standard deviation of that noise, relative to what it should be.

  Raises:
    ValueError: for a negative setting or an empty range.
  """
  if min(s_churn, s_tmin, s_noise) < 0 or s_tmax < s_tmin:
    raise ValueError(
      'edm: needs s_churn, s_tmin, s_noise >= 0 and s_tmax >= s_tmin, not'
      f' {s_churn}, {s_tmin}, {s_noise} and {s_tmax}'
    )

  def init(x, steps):
    return jnp.minimum(jnp.asarray(s_churn / steps, x.dtype), 2**0.5 - 1)

  def step(process, x, t, s, denoise, key, growth):
    if s_churn == 0:
      return _heun_ratio(process, x, t, s, denoise), growth
    noisy = process.alpha(t) > 0  # else there is nothing that noise could be added to
    alpha = jnp.where(noisy, process.alpha(t), 1)
    level = process.sigma(t) / alpha
    gamma = jnp.where(noisy & (level >= s_tmin) & (level <= s_tmax), growth, 0)
    raised = level * (1 + gamma)
    # The inverse of the log-SNR is not exact, so a time that stays is kept as it is.
    later = jnp.where(gamma > 0, process.time_of(-2 * jnp.log(raised)), t)
    added = s_noise * level * jnp.sqrt(gamma * (2 + gamma)) * normal_like(key, x)
    x = jnp.where(gamma > 0, process.alpha(later) * (x / alpha + added), x)
    return _heun_ratio(process, x, later, s, denoise), growth

  return Sampler(step, init, lambda steps: 2 * steps - 1, deterministic=s_churn == 0)


def euler_maruyama() -> Sampler:
  """Euler-Maruyama on the reverse SDE, dx = (f·x − g²·score) dt + g dw (Song et al. 2021, eq. 6).

  Where g² is infinite (at the pure noise of rectified flow) nothing of x matters: that step draws
  x_s from the clean estimate alone.
  """

  def step(process, x, t, s, denoise, key, carry):
    pair, z = denoise(x, t), normal_like(key, x)
    finite = jnp.isfinite(process.g2(t))
    g2 = jnp.where(finite, process.g2(t), 0)
    # f·x − g²·score, with score = −eps/σ, is the probability flow's velocity + ½·g²/σ·eps.
    drift = velocity(process, pair, t) + 0.5 * g2 / process.sigma(t) * pair.eps
    moved = x + (s - t) * drift + jnp.sqrt(g2 * (t - s)) * z
    fresh = process.alpha(s) * pair.x0 + process.sigma(s) * z
    return _unless_clean(process, s, jnp.where(finite, moved, fresh), pair), carry

  return Sampler(step)


def _reverse_diffusion_step(process, x, t, s, pair, key):
  scale = process.alpha(t) / process.alpha(s)
  sigma = process.sigma(t)
  # x_t = scale·x_s + std·z forwards, discretised the same way backwards; score = −eps/σ.
  std = sigma * jnp.sqrt(process.lost(t, s))
  moved = (2 - scale) * x - std**2 / sigma * pair.eps + std * normal_like(key, x)
  return _unless_clean(process, s, moved, pair)


def reverse_diffusion() -> Sampler:
  """The forward chain's own discretisation, reversed (Song et al. 2021, eq. 46)."""

  def step(process, x, t, s, denoise, key, carry):
    return _reverse_diffusion_step(process, x, t, s, denoise(x, t), key), carry

  return Sampler(step)


NORMS = ('expected', 'measured')


def predictor_corrector(
  snr: float = 0.16, corrections: int = 1, predict: bool = True, norm: str = 'expected'
) -> Sampler:
  """Langevin corrections, then a reverse-diffusion step (Song et al. 2021, algorithms 2-5).

  Args:
    snr: the step's signal-to-noise ratio r: step = 2·a·(r·‖z‖/‖score‖)², where a is the squared
      scale of the forward transition (1 for VE, 1 − β for VP).
    corrections: Langevin steps at each time.
    predict: False leaves the corrections alone: x is taken over from time to time as it is.
    norm: ‖z‖/‖score‖ is 'expected' (σ: √d over √d/σ) or 'measured' for each example. The paper
      averages measured norms over the batch; then a sample depends on the others in its batch.

  Raises:
    ValueError: for a step or number that is not positive, or an unknown norm.
  """
  if snr <= 0 or corrections < 1:
    raise ValueError(f'predictor_corrector: snr={snr} and corrections={corrections} must be > 0')
  if norm not in NORMS:
    raise ValueError(f'predictor_corrector.norm={norm!r}; known: {", ".join(NORMS)}')

  def correct(process, x, t, s, denoise, key):
    sigma = process.sigma(t)
    pair, z = denoise(x, t), normal_like(key, x)
    ratio = sigma if norm == 'expected' else sigma * _size(z) / _size(pair.eps)
    size = 2 * (process.alpha(t) / process.alpha(s) * snr * ratio) ** 2
    return x - size / sigma * pair.eps + jnp.sqrt(2 * size) * z

  def step(process, x, t, s, denoise, key, carry):
    for number in range(corrections):
      x = correct(process, x, t, s, denoise, split_keys(key, number + 1))
    if predict:
      return _reverse_diffusion_step(process, x, t, s, denoise(x, t), split_keys(key, 0)), carry
    pair = denoise.when(process.sigma(s) <= 0, x, t, Pair(x, x))
    return _unless_clean(process, s, x, pair), carry

  alone = lambda steps: corrections * steps + 1
  return Sampler(step, evaluations=(lambda n: (corrections + 1) * n) if predict else alone)


def _size(x: Array) -> Array:
  """The norm of each example, to multiply examples."""
  return jnp.sqrt(jnp.sum(x**2, axis=tuple(range(1, x.ndim)), keepdims=True))
