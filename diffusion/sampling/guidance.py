"""Guidance: transforms from denoiser to denoiser, which compose.

A denoiser is a function (x [batch, *shape], t [batch]) -> Pair(x0, eps). A plain function takes one
network evaluation per call; a transform is a `Denoiser`, which says how many it takes.

The weight convention, everywhere in this repository: guided = other + weight·(model − other), so
that weight 1 is the model and 0 is the other model (unconditional, or weaker). With the w of
Ho & Salimans 2022, weight = 1 + w. The `guidance_scale` of most libraries, the s of GLIDE (Nichol
et al. 2021) and the w of Karras et al. 2024 are the weight itself.
"""

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from diffusion.predictions import Denoise, Pair, expand
from diffusion.processes.process import Process

Weight = float | Float[Array, '']


class Denoiser:
  """A denoiser that also gives the model's estimate before guidance, and the cost of both."""

  def guided_and_plain(
    self, x: Float[Array, 'batch ...'], t: Float[Array, 'batch']
  ) -> tuple[Pair, Pair]:
    """The guided estimate, and the model's estimate before guidance."""
    raise NotImplementedError

  def plain(self, x: Float[Array, 'batch ...'], t: Float[Array, 'batch']) -> Pair:
    """The model's estimate before guidance."""
    raise NotImplementedError

  def cost(self, t: Float[Array, 'batch']) -> Int[Array, '']:
    """Network evaluations of a guided call at these times."""
    raise NotImplementedError

  def plain_cost(self, t: Float[Array, 'batch']) -> Int[Array, '']:
    """Network evaluations of a call of `plain` at these times."""
    raise NotImplementedError

  def for_step(self, t: Float[Array, 'batch']) -> 'Denoiser':
    """The denoiser for one step whose noisier end is t: guidance does not switch within it."""
    return self

  def __call__(self, x: Float[Array, 'batch ...'], t: Float[Array, 'batch']) -> Pair:
    return self.guided_and_plain(x, t)[0]


def _evaluations(number: int) -> Int[Array, '']:
  return jnp.asarray(number, jnp.int32)


@dataclasses.dataclass(frozen=True, eq=False)
class Unguided(Denoiser):
  """A plain function, which takes one network evaluation per call."""

  denoise: Denoise

  def guided_and_plain(self, x, t):
    pair = self.denoise(x, t)
    return pair, pair

  def plain(self, x, t):
    return self.denoise(x, t)

  def cost(self, t):
    return _evaluations(1)

  def plain_cost(self, t):
    return _evaluations(1)


def as_denoiser(denoise: Denoise | Denoiser) -> Denoiser:
  """A plain function as a `Denoiser`; a `Denoiser` as it is."""
  return denoise if isinstance(denoise, Denoiser) else Unguided(denoise)


@dataclasses.dataclass(frozen=True, eq=False)
class ClassifierFree(Denoiser):
  """Classifier-free guidance (Ho & Salimans 2022, eq. 6, with weight = 1 + w).

  Attributes:
    denoise: (x, t, condition) -> Pair, of a model whose condition was sometimes hidden in training.
    condition: arrays [batch, ...] (a pytree): the classes to sample.
    null: the condition that stands for the unconditional model, of the same structure.
    weight: 1 is the conditional model, 0 the unconditional one, above 1 is guidance. May be traced.

  Raises:
    ValueError: if there is no condition, or no null one, to guide with.
  """

  denoise: Callable[[Array, Array, Any], Pair]
  condition: Any
  null: Any
  weight: Weight

  def __post_init__(self):
    if self.condition is None or self.null is None:
      missing = 'condition' if self.condition is None else 'null condition'
      raise ValueError(f'classifier-free guidance needs a conditional model: it has no {missing}')

  def plain(self, x, t):
    return self.denoise(x, t, self.condition)

  def guided_and_plain(self, x, t):
    # One call of twice the batch keeps an accelerator busier than two calls.
    condition = jax.tree.map(_stack, self.condition, self.null)
    conditional, unconditional = _halves(self.denoise(_stack(x, x), _stack(t, t), condition))
    return _extrapolate(unconditional, conditional, self.weight), conditional

  def cost(self, t):
    return _evaluations(2)  # both branches count, although they run side by side

  def plain_cost(self, t):
    return _evaluations(1)


@dataclasses.dataclass(frozen=True, eq=False)
class Transform(Denoiser):
  """A denoiser that changes the guided estimate of another; plain estimate and costs do not change.

  Attributes:
    denoise: the other denoiser, a plain function or a `Denoiser`.
  """

  denoise: Denoise

  @property
  def inner(self) -> Denoiser:
    return as_denoiser(self.denoise)

  def for_step(self, t):
    return dataclasses.replace(self, denoise=self.inner.for_step(t))

  def plain(self, x, t):
    return self.inner.plain(x, t)

  def cost(self, t):
    return self.inner.cost(t)

  def plain_cost(self, t):
    return self.inner.plain_cost(t)


@dataclasses.dataclass(frozen=True, eq=False)
class Autoguidance(Transform):
  """Guidance by a weaker version of the same model (Karras et al. 2024, eq. 3).

  Attributes:
    denoise: the model.
    weak: a smaller or less trained model, given the same condition.
    weight: 1 is the model, 0 the weak model.

  Raises:
    ValueError: without a weak model.
  """

  weak: Denoise | None
  weight: Weight

  def __post_init__(self):
    if self.weak is None:
      raise ValueError('autoguidance needs a second, weaker model, got none')

  def for_step(self, t):
    weak = as_denoiser(self.weak).for_step(t)
    return dataclasses.replace(self, denoise=self.inner.for_step(t), weak=weak)

  def plain(self, x, t):
    return self.inner(x, t)

  def guided_and_plain(self, x, t):
    # The strong model may be guided itself: its guided estimate is this guidance's plain one.
    strong = self.inner(x, t)
    return _extrapolate(as_denoiser(self.weak)(x, t), strong, self.weight), strong

  def cost(self, t):
    # The networks run one after the other, or side by side: both count.
    return self.inner.cost(t) + as_denoiser(self.weak).cost(t)

  def plain_cost(self, t):
    return self.inner.cost(t)


@dataclasses.dataclass(frozen=True, eq=False)
class ClassifierGuidance(Transform):
  """Shifts the score by the gradient of a classifier's (Dhariwal & Nichol 2021, algorithm 2).

  eps − scale·σ·∇log p(y | x, t); the clean part follows from x = α·x0 + σ·eps. Scale 0 is the
  model. The classifier's passes are not counted as network evaluations: it is another
  network, run forward and backward once per call.

  Attributes:
    denoise: the model.
    log_prob: (x, t) -> [batch] log-probability of the wanted class, for a classifier of noisy data.
    process: the diffusion process.
    scale: strength of the guidance.

  Raises:
    ValueError: without a classifier.
  """

  log_prob: Callable | None
  process: Process
  scale: Weight

  def __post_init__(self):
    if self.log_prob is None:
      raise ValueError('classifier guidance needs a classifier of noisy data, got none')

  def guided_and_plain(self, x, t):
    guided, plain = self.inner.guided_and_plain(x, t)
    # The gradient of the sum is that of each example: no example's term depends on another.
    gradient = jax.grad(lambda x: self.log_prob(x, t).sum())(x)
    alpha, sigma = expand(self.process.alpha(t), x), expand(self.process.sigma(t), x)
    # score + scale·∇log p(y | x), with score = −eps/σ: eps moves by −scale·σ·∇log p(y | x), and x0
    # by σ/α times as much the other way, so that α·x0 + σ·eps stays x.
    shift = self.scale * sigma * gradient
    # With alpha = 0 the clean part does not appear in x, and does not change.
    ratio = jnp.where(alpha > 0, sigma / jnp.where(alpha > 0, alpha, 1), 0)
    return guided._replace(x0=guided.x0 + ratio * shift, eps=guided.eps - shift), plain


@dataclasses.dataclass(frozen=True, eq=False)
class Interval(Transform):
  """Guidance only where low < σ/α <= high (Kynkäänniemi et al. 2024, eq. 6).

  Outside, only the plain model runs, and only its calls are counted. The bounds are noise levels
  in EDM's convention, noise over signal, so that they mean the same for every process. A step is
  guided or not as a whole, by its noisier end, however many evaluations it takes (section 3.1).

  Raises:
    ValueError: unless 0 <= low < high.
  """

  process: Process
  low: float
  high: float

  def __post_init__(self):
    if not 0 <= self.low < self.high:
      raise ValueError(
        f'a guidance interval needs 0 <= low < high, got low={self.low} and high={self.high}'
      )

  def inside(self, t: Float[Array, 'batch']) -> Array:
    """Whether each example is guided at its time."""
    # Compared without a division: alpha may be 0, and the level infinite.
    alpha, sigma = self.process.alpha(t), self.process.sigma(t)
    return (self.low * alpha < sigma) & (math.isinf(self.high) | (sigma <= self.high * alpha))

  def for_step(self, t):
    return Switched(self.inner.for_step(t), self.inside(t))

  def guided_and_plain(self, x, t):
    return self.for_step(t).guided_and_plain(x, t)

  def cost(self, t):
    return self.for_step(t).cost(t)


@dataclasses.dataclass(frozen=True, eq=False)
class Switched(Transform):
  """Guidance for some examples of a batch.

  Attributes:
    denoise: a guided denoiser.
    chosen: [batch], whether each example is guided.
  """

  chosen: Array

  def _unguided(self, x, t):
    pair = self.inner.plain(x, t)
    return pair, pair

  def guided_and_plain(self, x, t):
    # If no example is chosen, the guidance does not run; otherwise it runs for the whole batch.
    guided, plain = jax.lax.cond(
      self.chosen.any(), self.inner.guided_and_plain, self._unguided, x, t
    )
    where = expand(self.chosen.astype(x.dtype), x) > 0
    return jax.tree.map(lambda a, b: jnp.where(where, a, b), guided, plain), plain

  def cost(self, t):
    return jnp.where(self.chosen.any(), self.inner.cost(t), self.inner.plain_cost(t))


@dataclasses.dataclass(frozen=True, eq=False)
class Rescaled(Transform):
  """Restores the contrast of the plain estimate (Lin et al. 2023, section 3.4).

  Each guided clean image is scaled by the ratio of the standard deviations, plain over guided, and
  then mixed with the unscaled one. The paper, and libraries after it, do this to the network's
  output (their v or ε) in place of the clean image: for a network that predicts x0 the two agree,
  for other targets they do not. Here one share means the same for every target.

  Attributes:
    denoise: a guided denoiser.
    process: the diffusion process.
    share: 0 leaves the guided estimate as it is, 1 takes the rescaled one.
  """

  process: Process
  share: Weight = 0.7

  def guided_and_plain(self, x, t):
    guided, plain = self.inner.guided_and_plain(x, t)
    # Lin et al. 2023, eq. 15-16: guided x0 times std(plain x0)/std(guided x0), then the mixture.
    factor = _std(plain.x0) / jnp.maximum(_std(guided.x0), 1e-8)
    clean = guided.x0 * (self.share * factor + 1 - self.share)
    return with_clean(guided, clean, self.process, x, t), plain


@dataclasses.dataclass(frozen=True, eq=False)
class StaticThreshold(Transform):
  """Clips the clean estimate to [-bound, bound] (Ho et al. 2020)."""

  process: Process
  bound: float = 1.0

  def guided_and_plain(self, x, t):
    guided, plain = self.inner.guided_and_plain(x, t)
    clean = jnp.clip(guided.x0, -self.bound, self.bound)
    return with_clean(guided, clean, self.process, x, t), plain


@dataclasses.dataclass(frozen=True, eq=False)
class DynamicThreshold(Transform):
  """Clips each clean estimate to a percentile of its own size, then divides by it.

  Saharia et al. 2022 (Imagen), section 2.3. A percentile below `bound` counts as `bound`.

  Raises:
    ValueError: if the percentile is outside (0, 1].
  """

  process: Process
  percentile: float = 0.995
  bound: float = 1.0

  def __post_init__(self):
    if not 0 < self.percentile <= 1:
      raise ValueError(
        f'the percentile of a dynamic threshold must be in (0, 1], got {self.percentile}'
      )

  def guided_and_plain(self, x, t):
    guided, plain = self.inner.guided_and_plain(x, t)
    axes = tuple(range(1, x.ndim))
    size = jnp.quantile(jnp.abs(guided.x0), self.percentile, axis=axes, keepdims=True)
    # Estimates within the bound do not change: they are never scaled up.
    size = jnp.maximum(size, self.bound)
    clean = jnp.clip(guided.x0, -size, size) * (self.bound / size)
    return with_clean(guided, clean, self.process, x, t), plain


def with_clean(pair: Pair, clean: Array, process: Process, x: Array, t: Array) -> Pair:
  """`pair` with another clean part, and the noise part that then explains x."""
  # x = α·x0 + σ·eps holds again, which every sampler relies on.
  alpha, sigma = expand(process.alpha(t), x), expand(process.sigma(t), x)
  return pair._replace(x0=clean, eps=(x - alpha * clean) / sigma)


def _extrapolate(other: Pair, model: Pair, weight: Weight) -> Pair:
  """other + weight·(model − other); the variance fraction is the model's."""
  return model._replace(
    x0=other.x0 + weight * (model.x0 - other.x0), eps=other.eps + weight * (model.eps - other.eps)
  )


def _std(x: Array) -> Array:
  """Standard deviation over each example, in a shape that broadcasts with examples."""
  return jnp.std(x, tuple(range(1, x.ndim)), keepdims=True)


def _stack(a: Array, b: Array) -> Array:
  return jnp.concatenate([a, b])


def _halves(pair: Pair) -> tuple[Pair, Pair]:
  half = pair.x0.shape[0] // 2
  return jax.tree.map(lambda a: a[:half], pair), jax.tree.map(lambda a: a[half:], pair)
