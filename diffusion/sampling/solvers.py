"""One-step samplers: from x at time t to x at time s, given only the denoiser.

A sampler's step is pure. `t` and `s` are scalars. `denoise(x, t)` gives a `Pair` and counts its own
cost; `denoise.when(...)` is the same behind a condition. `key` holds one key per example. A sampler
knows no network, no guidance and no kind of process: everything is expressed in α, σ and
λ = log(α²/σ²) of the process.

Steps that end at time 0, where σ = 0, end on the estimate of clean data.
"""

import dataclasses
from typing import Annotated, Any

import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from common.config import ConfigError
from common.ranges import ABOVE_ZERO, AT_LEAST_ZERO, PROBABILITY, Interval, OneOf
from diffusion.predictions import Pair, fold_in_each, normal_like, velocity
from diffusion.processes.process import Process

Time = Float[Array, '']


class Sampler:
  """A way from noise to data. Each sampler is a frozen dataclass of its settings.

  Attributes:
    deterministic: whether the key has no effect, so that the sampler also runs backwards.
  """

  deterministic: bool = False

  def init(self, x: Array, steps: Any) -> Any:
    """The first carry. `steps` may be traced."""
    return ()

  def step(
    self,
    process: Process,
    x: Array,
    t: Time,
    s: Time,
    denoise: Any,
    key: Key[Array, 'batch'],
    carry,
  ) -> tuple[Array, Any]:
    """x at time s and the next carry, from x at time t."""
    raise NotImplementedError

  def finish(self, clean: Array) -> Array:
    """The result, from the clean estimate that final denoising gives."""
    return clean

  def of_model(self, variance: str) -> 'Sampler':
    """The sampler for a model with this variance of its reverse steps, one of `VARIANCES`."""
    return self


@dataclasses.dataclass(frozen=True)
class DDIM(Sampler):
  """DDIM (Song et al. 2020, eq. 12 and 16).

  Attributes:
    eta: 0 is deterministic, 1 is ancestral sampling with the small variance.
  """

  eta: Annotated[float, PROBABILITY] = 0.0

  @property
  def deterministic(self) -> bool:
    return self.eta == 0

  def step(self, process, x, t, s, denoise, key, carry):
    pair = denoise(x, t)
    alpha, sigma = process.alpha(s), process.sigma(s)
    if self.eta == 0:
      return alpha * pair.x0 + sigma * pair.eps, carry  # eq. 12 with σ_t = 0
    # The paper's σ² is η²·(1 − SNR_t/SNR_s)·σ_s² (eq. 16); the rest of σ_s² stays in direction eps.
    share = self.eta**2 * process.added_noise_share(t, s)
    mean = alpha * pair.x0 + sigma * jnp.sqrt(1 - share) * pair.eps
    return mean + sigma * jnp.sqrt(share) * normal_like(key, x), carry


VARIANCES = ('fixed_small', 'fixed_large', 'learned')
MODELS_OWN = 'model'  # the variance that the model was built with


@dataclasses.dataclass(frozen=True)
class Ancestral(Sampler):
  """Draws from q(x_s | x_t, x0) at the estimated x0 (Ho et al. 2020, algorithm 2, eq. 6-7).

  Attributes:
    variance: variance of the reverse step. 'model': the one that the model was built with, see
      `of_model`. 'fixed_small': the variance of q(x_s | x_t, x0), DDPM's β̃; 'fixed_large': the
      variance of q(x_t | x_s), DDPM's β; 'learned': between the two on a log scale, by the
      denoiser's `variance_fraction` (Nichol & Dhariwal 2021, eq. 15).
    interpolation: for 'fixed_small': how far the variance lies towards the large one on a log scale
      (v of Ho & Salimans 2022, section 4).

  Raises:
    ValueError: for 'learned' with a model that learns none.
  """

  variance: Annotated[str, OneOf(MODELS_OWN, *VARIANCES)] = MODELS_OWN
  interpolation: Annotated[float, PROBABILITY] = 0.0

  def of_model(self, variance: str) -> Sampler:
    if self.variance == 'learned' != variance:
      raise ValueError(
        "variance='learned' needs a model with prediction.variance='learned', got"
        f" {variance!r}; use 'model'"
      )
    return dataclasses.replace(self, variance=variance) if self.variance == MODELS_OWN else self

  def step(self, process, x, t, s, denoise, key, carry):
    pair = denoise(x, t)
    # The posterior mean, Ho et al.'s eq. 7 in α and σ.
    share = process.added_noise_share(t, s)
    sigma_t, sigma_s = process.sigma(t), process.sigma(s)
    scale = process.alpha(t) / process.alpha(s) * (sigma_s / sigma_t) ** 2
    mean = scale * x + process.alpha(s) * share * pair.x0
    # The standard deviation is √share·σ_s (β̃) or √share·σ_t (β); a step to clean data has none.
    small = jnp.where(sigma_s > 0, sigma_s, 1)
    if self.variance == 'learned':
      spread = jnp.exp(pair.variance_fraction * jnp.log(sigma_t / small)) * small
    elif self.variance == 'fixed_small' and self.interpolation:
      spread = sigma_t**self.interpolation * small ** (1 - self.interpolation)
    else:
      spread = sigma_t if self.variance == 'fixed_large' else small
    std = jnp.where(sigma_s > 0, jnp.sqrt(share) * spread, 0)
    return mean + std * normal_like(key, x), carry


def _unless_clean(process: Process, s: Time, x: Array, pair: Pair) -> Array:
  """x, or the clean estimate where s is time 0."""
  return jnp.where(process.sigma(s) > 0, x, process.alpha(s) * pair.x0)


@dataclasses.dataclass(frozen=True)
class Euler(Sampler):
  """Euler's method on the probability flow in time t: first order, one evaluation.

  (In σ/α in place of t, Euler's method is DDIM.)
  """

  deterministic = True

  def step(self, process, x, t, s, denoise, key, carry):
    pair = denoise(x, t)
    # dx/dt = α′·x0 + σ′·eps at the time the step starts from; s − t is negative.
    moved = x + (s - t) * velocity(process, pair, t)
    return _unless_clean(process, s, moved, pair), carry


def heun_in_time(process: Process, x: Array, t: Time, s: Time, denoise: Any) -> Array:
  """Heun's step in time t (Karras et al. 2022, algorithm 1)."""
  first = denoise(x, t)
  slope = velocity(process, first, t)
  moved = x + (s - t) * slope
  # At clean data the second slope is not needed, and any pair can stand in for it.
  second = denoise.when(process.sigma(s) > 0, moved, s, first)
  later = jnp.where(process.sigma(s) > 0, s, t)
  corrected = x + (s - t) * 0.5 * (slope + velocity(process, second, later))
  return _unless_clean(process, s, corrected, first)


def heun_in_ratio(process: Process, x: Array, t: Time, s: Time, denoise: Any) -> Array:
  """Heun's step in σ/α, where the slope of x/α is eps."""
  first = denoise(x, t)
  alpha, sigma = process.alpha(s), process.sigma(s)
  # Euler's step in σ/α is DDIM's.
  moved = alpha * first.x0 + sigma * first.eps
  second = denoise.when(sigma > 0, moved, s, first)
  # x/α moves by h·(eps₁ + eps₂)/2, where h is the change of σ/α; `moved` has moved by h·eps₁.
  # At pure noise σ/α is infinite, and the step stays DDIM's.
  before = process.alpha(t)
  step = sigma - alpha * process.sigma(t) / jnp.where(before > 0, before, jnp.inf)
  step = jnp.where(before > 0, step, 0)
  return moved + 0.5 * step * (second.eps - first.eps)


SPACES = {'time': heun_in_time, 'ratio': heun_in_ratio}


@dataclasses.dataclass(frozen=True)
class Heun(Sampler):
  """Heun's method on the probability flow: second order, two evaluations.

  Karras et al. 2022, algorithm 1. A step to clean data is Euler's, with one evaluation.

  Attributes:
    space: the variable of integration. 'time' works for every process; 'ratio' is σ/α, smoother
      where σ is not smooth in time (VP linear near 0), but wrong where α comes near 0 (rectified
      flow, cosine). For EDM, where σ = t and α = 1, they are the same.
  """

  space: Annotated[str, OneOf(*SPACES)] = 'time'
  deterministic = True

  def step(self, process, x, t, s, denoise, key, carry):
    return SPACES[self.space](process, x, t, s, denoise), carry


@dataclasses.dataclass(frozen=True)
class EDMSampler(Sampler):
  """Heun's method with added noise (Karras et al. 2022, algorithm 2), in σ/α for any process.

  On a discrete process the raised noise level lies between two entries of the table; the authors'
  code rounds it to one.

  Attributes:
    s_churn: how much noise is added over all steps; 0 is deterministic.
    s_tmin, s_tmax: noise levels σ/α between which noise is added.
    s_noise: standard deviation of the added noise, relative to its theoretical value.

  Raises:
    ConfigError: for an empty range of noise levels.
  """

  s_churn: Annotated[float, AT_LEAST_ZERO] = 0.0
  s_tmin: Annotated[float, AT_LEAST_ZERO] = 0.0
  s_tmax: Annotated[float, Interval(0, infinite=True)] = float('inf')
  s_noise: Annotated[float, AT_LEAST_ZERO] = 1.0

  def __post_init__(self):
    if self.s_tmax < self.s_tmin:
      raise ConfigError(
        f'sampler.s_tmax={self.s_tmax} must be at least sampler.s_tmin={self.s_tmin}'
      )

  @property
  def deterministic(self) -> bool:
    return self.s_churn == 0

  def init(self, x, steps):
    # γ = min(S_churn/N, √2 − 1): at most as much noise is added as there is (section 4).
    return jnp.minimum(jnp.asarray(self.s_churn / steps, x.dtype), 2**0.5 - 1)

  def step(self, process, x, t, s, denoise, key, carry):
    if self.s_churn == 0:
      return heun_in_ratio(process, x, t, s, denoise), carry
    noisy = process.alpha(t) > 0  # at pure noise σ/α is infinite: no noise can be added
    alpha = jnp.where(noisy, process.alpha(t), 1)
    level = process.sigma(t) / alpha
    gamma = jnp.where(noisy & (level >= self.s_tmin) & (level <= self.s_tmax), carry, 0)
    raised = level * (1 + gamma)  # σ̂ = σ + γ·σ (line 5)
    # The inverse of the log-SNR is not exact: without added noise the time itself is kept.
    later = jnp.where(gamma > 0, process.time_of(-2 * jnp.log(raised)), t)
    # √(σ̂² − σ²) = σ·√(γ·(2 + γ)) (line 6), without cancellation.
    added = self.s_noise * level * jnp.sqrt(gamma * (2 + gamma)) * normal_like(key, x)
    x = jnp.where(gamma > 0, process.alpha(later) * (x / alpha + added), x)
    return heun_in_ratio(process, x, later, s, denoise), carry


@dataclasses.dataclass(frozen=True)
class EulerMaruyama(Sampler):
  """Euler-Maruyama on the reverse SDE, dx = (f·x − g²·score) dt + g dw (Song et al. 2021, eq. 6).

  Where g² is infinite (at the pure noise of rectified flow), x carries no information: that step
  draws x_s from the clean estimate only.
  """

  def step(self, process, x, t, s, denoise, key, carry):
    pair, z = denoise(x, t), normal_like(key, x)
    finite = jnp.isfinite(process.squared_diffusion(t))
    g2 = jnp.where(finite, process.squared_diffusion(t), 0)
    # f·x − g²·score, with score = −eps/σ, is the probability flow's velocity + ½·g²/σ·eps.
    drift = velocity(process, pair, t) + 0.5 * g2 / process.sigma(t) * pair.eps
    moved = x + (s - t) * drift + jnp.sqrt(g2 * (t - s)) * z  # time runs backwards: s < t
    # A draw from q(x_s | x0), which needs no x_t.
    fresh = process.alpha(s) * pair.x0 + process.sigma(s) * z
    return _unless_clean(process, s, jnp.where(finite, moved, fresh), pair), carry


def reverse_diffusion_step(
  process: Process, x: Array, t: Time, s: Time, pair: Pair, key: Key[Array, 'batch']
) -> Array:
  """The forward transition x_t = scale·x_s + std·z, discretised backwards (eq. 46)."""
  scale = process.alpha(t) / process.alpha(s)
  sigma = process.sigma(t)
  std = sigma * jnp.sqrt(process.added_noise_share(t, s))
  # x_s = (2 − scale)·x + std²·score + std·z, as √(1 − β) = scale gives 2 − √(1 − β) (algorithm 3).
  moved = (2 - scale) * x - std**2 / sigma * pair.eps + std * normal_like(key, x)  # score = −eps/σ
  return _unless_clean(process, s, moved, pair)


@dataclasses.dataclass(frozen=True)
class ReverseDiffusion(Sampler):
  """The forward chain's own discretisation, reversed (Song et al. 2021, eq. 46).

  For every process, sub-VP too, the exact transition between two times; for sub-VP the authors'
  code takes Euler's step of the SDE.
  """

  def step(self, process, x, t, s, denoise, key, carry):
    return reverse_diffusion_step(process, x, t, s, denoise(x, t), key), carry


NORMS = ('expected', 'measured')
# One step from a time to the next, after the corrections; 'none': x goes there unchanged.
PREDICTORS = ('reverse_diffusion', 'ancestral', 'euler', 'none')


@dataclasses.dataclass(frozen=True)
class PredictorCorrector(Sampler):
  """Langevin corrections, then a step of another sampler (Song et al. 2021, algorithms 2-5).

  The corrections come before the prediction at each time, as in the authors' code; the algorithms
  put them after it.

  Attributes:
    snr: the step's signal-to-noise ratio r: step = 2·a·(r·‖z‖/‖score‖)², where a is the squared
      scale of the forward transition (1 for VE, 1 − β for VP).
    corrections: number of Langevin steps at each time.
    predictor: the sampler that steps to the next time, one of `PREDICTORS`; 'euler' follows the
      probability flow, and 'none' leaves only the corrections.
    variance: of the predictor 'ancestral', as there.
    norm: ‖z‖/‖score‖ is 'expected' (σ: √d over √d/σ) or 'measured' for each example. The paper
      averages measured norms over the batch, which makes a sample depend on the rest of its batch.
  """

  snr: Annotated[float, ABOVE_ZERO] = 0.16
  corrections: Annotated[int, Interval(1, 1000)] = 1
  predictor: Annotated[str, OneOf(*PREDICTORS)] = 'reverse_diffusion'
  variance: Annotated[str, OneOf(MODELS_OWN, *VARIANCES)] = MODELS_OWN
  norm: Annotated[str, OneOf(*NORMS)] = 'expected'

  def of_model(self, variance: str) -> Sampler:
    if self.predictor != 'ancestral':
      return self
    resolved = Ancestral(self.variance).of_model(variance)
    return dataclasses.replace(self, variance=resolved.variance)

  def _predict(self, process, x, t, s, denoise, key):
    """One step of the predictor."""
    if self.predictor == 'none':
      # Only the step to clean data needs another estimate.
      pair = denoise.when(process.sigma(s) <= 0, x, t, Pair(x, x))
      return _unless_clean(process, s, x, pair)
    samplers = {
      'reverse_diffusion': ReverseDiffusion(),
      'ancestral': Ancestral(self.variance),
      'euler': Euler(),
    }
    return samplers[self.predictor].step(process, x, t, s, denoise, key, ())[0]

  def _correct(self, process, x, t, s, denoise, key):
    """One Langevin step, x + ε·score + √(2ε)·z, at time t."""
    sigma = process.sigma(t)
    pair, z = denoise(x, t), normal_like(key, x)
    # ‖z‖/‖score‖ with score = −eps/σ; by expectation both z and eps have norm √d.
    ratio = sigma if self.norm == 'expected' else sigma * _norm(z) / _norm(pair.eps)
    # ε = 2·a·(r·‖z‖/‖score‖)² (Song et al. 2021, algorithms 4 and 5).
    size = 2 * (process.alpha(t) / process.alpha(s) * self.snr * ratio) ** 2
    return x - size / sigma * pair.eps + jnp.sqrt(2 * size) * z

  def step(self, process, x, t, s, denoise, key, carry):
    # Each use of the step's key has a number: 0 for the predictor, 1, 2, ... for the corrections.
    for number in range(self.corrections):
      x = self._correct(process, x, t, s, denoise, fold_in_each(key, number + 1))
    return self._predict(process, x, t, s, denoise, fold_in_each(key, 0)), carry


def _norm(x: Array) -> Array:
  """The norm of each example, in a shape that broadcasts with examples."""
  return jnp.sqrt(jnp.sum(x**2, axis=tuple(range(1, x.ndim)), keepdims=True))
