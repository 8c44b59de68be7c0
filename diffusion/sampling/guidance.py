"""Guidance: transforms from denoiser to denoiser, which compose.

A denoiser is a function (x [batch, *shape], t [batch]) -> Pair(x0, eps). A plain function takes one
network evaluation per call; a transform returns a `Denoiser`, which says how many it takes.

The weight convention, everywhere in this repository: guided = other + weight·(model − other), so
that weight 1 is the model as it is and 0 is the other one (unconditional, or weaker). With Ho &
Salimans 2022's w that is weight = 1 + w; with the `guidance_scale` of most libraries, with
Dhariwal & Nichol 2021's s for classifier-free guidance and with Karras et al. 2024's w it is
weight itself.
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from diffusion.predictions import Denoise, Pair, expand
from diffusion.processes.process import Process

Weight = float | Float[Array, '']


class Denoiser(NamedTuple):
  """A denoiser that knows the one it was made from and what a call of it costs.

  Attributes:
    both: (x, t) -> (guided, plain): the guided estimate and that of the model before guidance.
    plain: (x, t) -> the estimate of the model before guidance.
    cost: t [batch] -> network evaluations of a guided call at these times, a scalar.
    plain_cost: the same for a call of `plain`.
  """

  both: Callable[[Array, Array], tuple[Pair, Pair]]
  plain: Denoise
  cost: Callable[[Array], Int[Array, '']]
  plain_cost: Callable[[Array], Int[Array, '']]

  def __call__(self, x: Float[Array, 'batch ...'], t: Float[Array, 'batch']) -> Pair:
    return self.both(x, t)[0]


def as_denoiser(denoise: Denoise | Denoiser) -> Denoiser:
  """A plain function as a `Denoiser` that takes one network evaluation per call."""
  if isinstance(denoise, Denoiser):
    return denoise

  def both(x, t):
    pair = denoise(x, t)
    return pair, pair

  return Denoiser(both, denoise, _constant(1), _constant(1))


def classifier_free(
  denoise: Callable[[Array, Array, Any], Pair],
  condition: Any,
  null: Any,
  weight: Weight,
  *,
  doubled: bool = True,
) -> Denoiser:
  """Classifier-free guidance (Ho & Salimans 2022, eq. 6, with weight = 1 + w).

  Args:
    denoise: (x, t, condition) -> Pair, a model trained with its condition dropped at times.
    condition: arrays [batch, ...] (a pytree): what to sample.
    null: the same for the unconditional model.
    weight: 1 is the conditional model, 0 the unconditional one, above 1 is guidance. May be traced.
    doubled: run both branches as one batch of twice the size.

  Raises:
    ValueError: when there is no condition, or no null one, to guide with.
  """
  if condition is None or null is None:
    missing = 'condition' if condition is None else 'null condition'
    raise ValueError(f'classifier-free guidance needs a conditional model: it has no {missing}')

  def plain(x, t):
    return denoise(x, t, condition)

  def both(x, t):
    if not doubled:
      with_condition, without = denoise(x, t, condition), denoise(x, t, null)
    else:
      stack = lambda a, b: jnp.concatenate([a, b])
      pair = denoise(stack(x, x), stack(t, t), jax.tree.map(stack, condition, null))
      with_condition, without = _halves(pair)
    return _extrapolate(without, with_condition, weight), with_condition

  return Denoiser(both, plain, _constant(2), _constant(1))


def autoguidance(denoise: Denoise, weak: Denoise | None, weight: Weight) -> Denoiser:
  """Guidance by a weaker version of the same model (Karras et al. 2024).

  Args:
    denoise: the model.
    weak: a smaller or less trained one, given the same condition.
    weight: 1 is the model, 0 the weak one.

  Raises:
    ValueError: without a weak model.
  """
  if weak is None:
    raise ValueError('autoguidance needs a second, weaker model; there is none')
  main, other = as_denoiser(denoise), as_denoiser(weak)

  def both(x, t):
    strong = main(x, t)
    return _extrapolate(other(x, t), strong, weight), strong

  return Denoiser(both, main, lambda t: main.cost(t) + other.cost(t), main.cost)


def classifier_guidance(
  denoise: Denoise, log_prob: Callable | None, process: Process, scale: Weight
) -> Denoiser:
  """Shifts the score by the gradient of a classifier's (Dhariwal & Nichol 2021, algorithm 2).

  eps − scale·σ·∇log p(y | x, t); the clean part follows from x = α·x0 + σ·eps. Scale 0 is the
  model as it is. The classifier's passes are not counted as network evaluations: it is another
  network, run forward and backward once per call.

  Args:
    denoise: the model.
    log_prob: (x, t) -> [batch] log-probability of the wanted class, for a classifier of noisy data.
    process: the diffusion process.
    scale: strength of the guidance.

  Raises:
    ValueError: without a classifier.
  """
  if log_prob is None:
    raise ValueError('classifier guidance needs a classifier of noisy data; there is none')
  main = as_denoiser(denoise)

  def both(x, t):
    guided, plain = main.both(x, t)
    gradient = jax.grad(lambda x: log_prob(x, t).sum())(x)
    alpha, sigma = expand(process.alpha(t), x), expand(process.sigma(t), x)
    shift = scale * sigma * gradient
    # With alpha = 0 the clean part is free: nothing of it shows in x.
    ratio = jnp.where(alpha > 0, sigma / jnp.where(alpha > 0, alpha, 1), 0)
    return guided._replace(x0=guided.x0 + ratio * shift, eps=guided.eps - shift), plain

  return main._replace(both=both)


def interval(denoise: Denoiser, process: Process, low: float, high: float) -> Denoiser:
  """Guidance only where low < σ/α <= high (Kynkäänniemi et al. 2024).

  Outside, the plain model runs alone, and only that is counted. The bounds are noise levels of
  EDM's convention, noise over signal, so that they mean the same for every process.

  Raises:
    ValueError: when the bounds are not 0 <= low < high.
  """
  if not 0 <= low < high:
    raise ValueError(f'guidance interval ({low}, {high}]: needs 0 <= low < high')

  def inside(t):
    # Compared without a division: alpha may be 0, and the level infinite.
    alpha, sigma = process.alpha(t), process.sigma(t)
    return (low * alpha < sigma) & (math.isinf(high) | (sigma <= high * alpha))

  def alone(x, t):
    pair = denoise.plain(x, t)
    return pair, pair

  def both(x, t):
    chosen = inside(t)
    guided, plain = jax.lax.cond(chosen.any(), denoise.both, alone, x, t)
    where = expand(chosen.astype(x.dtype), x) > 0
    return jax.tree.map(lambda a, b: jnp.where(where, a, b), guided, plain), plain

  def cost(t):
    return jnp.where(inside(t).any(), denoise.cost(t), denoise.plain_cost(t))

  return denoise._replace(both=both, cost=cost)


def rescaled(denoise: Denoiser, process: Process, share: Weight = 0.7) -> Denoiser:
  """Brings a guided clean image back to the plain one's contrast (Lin et al. 2023, section 3.4).

  The guided estimate is multiplied by the ratio of the standard deviations over each example,
  and `share` of that is mixed with the rest as it was.

  Args:
    denoise: a guided denoiser.
    process: the diffusion process.
    share: 0 leaves the guided estimate as it is, 1 takes the rescaled one.
  """

  def both(x, t):
    guided, plain = denoise.both(x, t)
    axes = tuple(range(1, x.ndim))
    std = lambda a: jnp.std(a, axes, keepdims=True)
    factor = std(plain.x0) / jnp.maximum(std(guided.x0), 1e-8)
    return with_clean(guided, guided.x0 * (share * factor + 1 - share), process, x, t), plain

  return denoise._replace(both=both)


def static_threshold(denoise: Denoise, process: Process, bound: float = 1.0) -> Denoiser:
  """Clips the clean estimate to [-bound, bound] (Ho et al. 2020)."""
  main = as_denoiser(denoise)

  def both(x, t):
    guided, plain = main.both(x, t)
    return with_clean(guided, jnp.clip(guided.x0, -bound, bound), process, x, t), plain

  return main._replace(both=both)


def dynamic_threshold(
  denoise: Denoise, process: Process, percentile: float = 0.995, bound: float = 1.0
) -> Denoiser:
  """Clips each clean estimate to a percentile of its own size, then divides by it.

  Saharia et al. 2022 (Imagen), section 2.3. A percentile below `bound` counts as `bound`.

  Raises:
    ValueError: when the percentile is outside (0, 1].
  """
  if not 0 < percentile <= 1:
    raise ValueError(f'dynamic threshold: percentile {percentile} must be in (0, 1]')
  main = as_denoiser(denoise)

  def both(x, t):
    guided, plain = main.both(x, t)
    axes = tuple(range(1, x.ndim))
    size = jnp.quantile(jnp.abs(guided.x0), percentile, axis=axes, keepdims=True)
    size = jnp.maximum(size, bound)
    return with_clean(
      guided, jnp.clip(guided.x0, -size, size) * (bound / size), process, x, t
    ), plain

  return main._replace(both=both)


def with_clean(pair: Pair, clean: Array, process: Process, x: Array, t: Array) -> Pair:
  """`pair` with another clean part, and the noise part that then explains x."""
  alpha, sigma = expand(process.alpha(t), x), expand(process.sigma(t), x)
  return pair._replace(x0=clean, eps=(x - alpha * clean) / sigma)


def _extrapolate(other: Pair, model: Pair, weight: Weight) -> Pair:
  """other + weight·(model − other); what else the model says (its variance) stays."""
  mix = lambda a, b: a + weight * (b - a)
  return model._replace(x0=mix(other.x0, model.x0), eps=mix(other.eps, model.eps))


def _halves(pair: Pair) -> tuple[Pair, Pair]:
  half = pair.x0.shape[0] // 2
  return jax.tree.map(lambda a: a[:half], pair), jax.tree.map(lambda a: a[half:], pair)


def _constant(number: int) -> Callable[[Array], Int[Array, '']]:
  return lambda t: jnp.asarray(number, jnp.int32)
