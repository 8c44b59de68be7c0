"""Exponential integrators in ℓ = log(α/σ): DPM-Solver++ and UniPC; and an adaptive solver.

These papers write λ for ℓ. Everywhere else here, λ is the log-SNR, twice as large.

With ℓ as time the probability flow is semi-linear, and its exact solution from t to s is
x_s = σ_s/σ_t·x_t + α_s·∫ e^(ℓ−ℓ_s) x0(ℓ) dℓ (Lu et al. 2022b, proposition 4.1). The solvers differ
in how they extend the clean estimate x0 over the step. A past estimate that is missing has ℓ = −∞;
then, as on a step from or to pure noise (ℓ = −∞) or to clean data (ℓ_s = ∞), the order falls to
what the remaining estimates allow.
"""

import dataclasses
import functools
from typing import Annotated, Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from common.ranges import ABOVE_ZERO, AT_LEAST_ONE, AT_LEAST_ZERO, PROBABILITY, Interval, OneOf
from diffusion.predictions import normal_like, velocity
from diffusion.processes.process import Process
from diffusion.sampling.solvers import Sampler, Time


class Past(NamedTuple):
  """Clean estimates of earlier steps, the latest first, and their half log-SNR.

  Attributes:
    clean: estimates, each like x.
    ell: log(α/σ) of each, −∞ for those that do not exist.
  """

  clean: tuple[Array, ...]
  ell: tuple[Array, ...]


def _no_past(length: int, x: Array) -> Past:
  return Past((jnp.zeros_like(x),) * length, (jnp.asarray(-jnp.inf, x.dtype),) * length)


def _remember(past: Past, clean: Array, ell: Array) -> Past:
  return Past((clean, *past.clean[:-1]), (ell, *past.ell[:-1]))


def half_log_snr(process: Process, t: Time) -> Array:
  """ℓ = log(α/σ), half the log-SNR."""
  return 0.5 * process.log_snr(t)


def _ratio(a: Array, b: Array) -> Array:
  """a/b, and 0 where either is not finite: a term that needs both is left out there."""
  known = jnp.isfinite(a) & jnp.isfinite(b)
  return jnp.where(known, a / jnp.where(known, b, 1), 0)


def _first_order(process: Process, x: Array, t: Time, s: Time, h: Array, clean: Array) -> Array:
  """The step with x0 constant over it: DDIM in another form (Lu et al. 2022b)."""
  kept = process.sigma(s) / process.sigma(t)
  # expm1: for short steps α_s·(1 − e^−h) would cancel. On a step up to pure noise e^−h is infinite
  # and α_s is 0; their product is α_t·σ_s/σ_t.
  gain = jnp.where(jnp.isneginf(h), -process.alpha(t) * kept, -process.alpha(s) * jnp.expm1(-h))
  return kept * x + gain * clean


@dataclasses.dataclass(frozen=True)
class DPMpp2M(Sampler):
  """DPM-Solver++(2M): second order, one evaluation (Lu et al. 2022b, algorithm 2)."""

  deterministic = True

  def init(self, x, steps):
    return _no_past(1, x)

  def step(self, process, x, t, s, denoise, key, carry):
    clean = denoise(x, t).x0
    ell = half_log_snr(process, t)
    h = half_log_snr(process, s) - ell
    # D = (1 + 1/(2r))·x0_t − 1/(2r)·x0_past, with r the ratio of the last step to this one.
    slope = 0.5 * _ratio(h, ell - carry.ell[0])
    # The first step has no past: the slope is 0, and the step first order.
    extended = clean + slope * (clean - carry.clean[0])
    return _first_order(process, x, t, s, h, extended), _remember(carry, clean, ell)


@dataclasses.dataclass(frozen=True)
class DPMpp2S(Sampler):
  """DPM-Solver++(2S): second order, two evaluations (Lu et al. 2022b, algorithm 1, r = 1/2).

  The process must be able to find the time halfway in ℓ; for a discrete process this lies between
  two table entries. A step to clean data or from pure noise takes one evaluation.
  """

  deterministic = True

  def step(self, process, x, t, s, denoise, key, carry):
    first = denoise(x, t)
    ell = half_log_snr(process, t)
    h = half_log_snr(process, s) - ell
    # An infinite step has no middle; stand-ins keep the unused branch finite.
    finite = jnp.isfinite(h)
    half = jnp.where(finite, 0.5 * h, 1)
    # The log-SNR in the middle is twice its ℓ.
    middle = jnp.where(finite, process.time_of(2 * (jnp.where(finite, ell, 0) + half)), t)
    inner = _first_order(process, x, t, middle, half, first.x0)
    # Only the estimate in the middle counts: for r = 1/2 its weight is 1.
    second = denoise.when(finite, inner, middle, first)
    return _first_order(process, x, t, s, h, second.x0), carry


@dataclasses.dataclass(frozen=True)
class DPMpp3MSDE(Sampler):
  """DPM-Solver++(3M) on the reverse SDE, one evaluation (Crowson's k-diffusion, for any α and σ).

  x0 is a parabola in ℓ through the last three estimates. It needs a grid of similar steps in ℓ
  (`karras`, `log_snr`): from a short step to one several times as long it extrapolates wildly.

  Attributes:
    eta: 0 for the probability flow, 1 for the reverse SDE.
    s_noise: standard deviation of the noise, relative to its theoretical value.
    curvature: weight of the parabola's curvature. 1 integrates the parabola exactly, and is third
      order where eta is 0. 0.5 is the weight in the code of k-diffusion and diffusers: second
      order, but steadier with few steps.
  """

  eta: Annotated[float, PROBABILITY] = 1.0
  s_noise: Annotated[float, AT_LEAST_ZERO] = 1.0
  curvature: Annotated[float, PROBABILITY] = 0.5

  @property
  def deterministic(self) -> bool:
    return self.eta == 0

  def init(self, x, steps):
    return _no_past(2, x)

  def step(self, process, x, t, s, denoise, key, carry):
    eta = self.eta
    clean = denoise(x, t).x0
    ell = half_log_snr(process, t)
    h = half_log_snr(process, s) - ell
    # With noise, x0 weighs e^((1+η)(ℓ−ℓ_s)): the flow's step with h stretched by 1 + η.
    full = h * (1 + eta)
    decay = jnp.exp(-h * eta) if eta else 1.0
    moved = _first_order(process, decay * x, t, s, full, clean)
    moved = moved + process.alpha(s) * _parabola(carry, clean, ell, h, full, self.curvature)
    if eta:
      # The variance that the SDE adds within the step: σ_s²·(1 − e^−2ηh).
      spread = process.sigma(s) * jnp.sqrt(-jnp.expm1(-2 * eta * h))
      moved = moved + self.s_noise * spread * normal_like(key, x)
    return moved, _remember(carry, clean, ell)


def _parabola(
  past: Past, clean: Array, ell: Array, h: Array, full: Array, curvature: float
) -> Array:
  """The contribution of x0's slope and curvature in ℓ, on top of a first-order step."""
  h1, h2 = ell - past.ell[0], past.ell[0] - past.ell[1]
  late = _ratio(h, h1) * (clean - past.clean[0])
  early = _ratio(h, h2) * (past.clean[0] - past.clean[1])
  # Divided differences. Without the earlier of the two slopes there is no curvature.
  bend = jnp.where(jnp.isfinite(h2), late - early, 0)
  slope = late + _ratio(h1, h1 + h2) * bend
  curve = _ratio(h, h1 + h2) * bend
  finite = jnp.isfinite(full)
  # ∫ of ℓ and of ℓ² against the exponential: φ₂ = (e^−h − 1)/h + 1, and 1 − 2·φ₂/h.
  span = jnp.where(finite, full, 1)
  phi2 = jnp.expm1(-span) / span + 1
  return jnp.where(finite, phi2 * slope + curvature * (1 - 2 * phi2 / span) * curve, 0)


VARIANTS = ('bh1', 'bh2')


class _UniPCState(NamedTuple):
  past: Past  # the previous step's own estimate first
  x: Array  # where that step started
  t: Array


@dataclasses.dataclass(frozen=True)
class UniPC(Sampler):
  """UniPC: a predictor, and a corrector that reuses its evaluation (Zhao et al. 2023).

  Each step evaluates at the predicted x, corrects x with that estimate, and predicts the next x
  from the corrected one: one evaluation, and an order above the predictor's.

  Attributes:
    order: order of the predictor, 1 to 3.
    variant: the paper's B₁(h) = h or B₂(h) = e^h − 1.
  """

  order: Annotated[int, Interval(1, 3)] = 2
  variant: Annotated[str, OneOf(*VARIANTS)] = 'bh2'
  deterministic = True

  def init(self, x, steps):
    return _UniPCState(_no_past(self.order, x), x, jnp.zeros((), x.dtype))

  def step(self, process, x, t, s, denoise, key, carry):
    clean = denoise(x, t).x0
    ell, known = half_log_snr(process, t), jnp.isfinite(carry.past.ell[0])
    # Before the first step there is nothing to correct, and the values below are not used.
    from_t = jnp.where(known, carry.t, t)
    corrected = _unipc_step(self.variant, process, carry.x, from_t, t, carry.past, clean)
    x = jnp.where(known, corrected, x)
    # The estimate at the predicted x is kept: no evaluation at the corrected one.
    past = _remember(carry.past, clean, ell)
    return _unipc_step(self.variant, process, x, t, s, past, None), _UniPCState(past, x, t)


def _unipc_step(
  variant: str, process: Process, x: Array, t: Time, s: Time, past: Past, newest: Array | None
) -> Array:
  """UniP from t to s, or UniC if `newest`, the estimate at s, is known. past.clean[0] is at t."""
  h = half_log_snr(process, s) - past.ell[0]
  base = _first_order(process, x, t, s, h, past.clean[0])
  finite = jnp.isfinite(h)
  span = jnp.where(finite, h, 1)
  # The number of past estimates is known only at run time: one branch for each order.
  valid = [jnp.isfinite(ell) for ell in past.ell[1:]]
  available = sum((v.astype(jnp.int32) for v in valid), jnp.zeros((), jnp.int32))
  orders = [
    functools.partial(_unipc_terms, variant, order) for order in range(1, len(past.clean) + 1)
  ]
  terms = jax.lax.switch(available, orders, span, past, newest)
  return base - process.alpha(s) * jnp.where(finite, terms, 0)


def _unipc_terms(variant: str, order: int, h: Array, past: Past, newest: Array | None) -> Array:
  """B(h)·Σ ρ_m·D_m/r_m over the differences of clean estimates (Zhao et al. 2023)."""
  ell = past.ell[0]
  ratios = [(past.ell[m] - ell) / h for m in range(1, order)]
  differences = [
    (past.clean[m] - past.clean[0]) / r for m, r in zip(range(1, order), ratios, strict=True)
  ]
  if newest is not None:
    ratios, differences = [*ratios, jnp.ones_like(h)], [*differences, newest - past.clean[0]]
  if not differences:
    return jnp.zeros_like(past.clean[0])
  # In data prediction the paper's h is negative: B₁ = −h, B₂ = e^−h − 1.
  size = -h if variant == 'bh1' else jnp.expm1(-h)
  weights = _unipc_coefficients(h, ratios, size)
  return size * sum(w * d for w, d in zip(weights, differences, strict=True))


def _unipc_coefficients(h: Array, ratios: list, size: Array) -> Float[Array, 'terms']:
  """ρ with Σ_m ρ_m·r_m^(n−1) = n!·z·φ_(n+1)(z)/B(h), z = −h: order conditions (theorem 3.1)."""
  if len(ratios) == 1:
    return jnp.full((1,), 0.5, h.dtype)  # the paper's choice, equal to its order of accuracy
  # `phi` is z·φ_(n+1)(z) = φ_n(z) − 1/n!, starting from φ₁(z) = (e^z − 1)/z.
  phi, factorial, right = jnp.expm1(-h) / -h - 1, 1, []
  for n in range(1, len(ratios) + 1):
    right.append(phi * factorial / size)
    factorial *= n + 1
    phi = phi / -h - 1 / factorial
  rows = jnp.stack(ratios)[None] ** jnp.arange(len(ratios))[:, None]
  return jnp.linalg.solve(rows, jnp.stack(right))


@dataclasses.dataclass(frozen=True)
class Adaptive(Sampler):
  """The probability flow by diffrax's Tsit5 with step-size control, between the grid's times.

  A grid of one step integrates the whole flow; a step to clean data takes the clean estimate. The
  batch shares its step sizes, and x becomes NaN if `max_steps` do not suffice. Under guidance that
  switches with time, every evaluation is counted at the cost of the most expensive time in [s, t].

  Attributes:
    rtol, atol: relative and absolute tolerance, of the root mean square over the batch.
    max_steps: maximal number of the solver's steps between two times of the grid.
  """

  rtol: Annotated[float, ABOVE_ZERO] = 1e-4
  atol: Annotated[float, ABOVE_ZERO] = 1e-4
  max_steps: Annotated[int, AT_LEAST_ONE] = 1000
  deterministic = True

  def step(self, process, x, t, s, denoise, key, carry):
    integrate = functools.partial(self._integrate, process, denoise, t, s)
    finish = functools.partial(_clean_estimate, process, denoise, t, s)
    x, calls = jax.lax.cond(process.sigma(s) > 0, integrate, finish, x)
    denoise.charge_between(calls, t, s)
    return x, carry

  def _integrate(self, process, denoise, t, s, x):
    """x at time s, and the number of evaluations."""
    import diffrax  # imported here: loading it takes a second

    solution = diffrax.diffeqsolve(
      diffrax.ODETerm(functools.partial(_flow, process, denoise)),
      diffrax.Tsit5(),
      t,
      s,
      None,
      x,
      stepsize_controller=diffrax.PIDController(rtol=self.rtol, atol=self.atol),
      max_steps=self.max_steps,
      throw=False,
    )
    done = solution.result == diffrax.RESULTS.successful
    taken = solution.stats['num_steps'].astype(jnp.int32)
    # Six stages per step, since the seventh is the first of the next step; one to start.
    return jnp.where(done, solution.ys[0], jnp.nan), 6 * taken + 1


def _flow(process: Process, denoise: Any, time: Time, x: Array, _: Any) -> Array:
  """dx/dt of the probability flow, as diffrax calls it; `Adaptive` counts the calls itself."""
  return velocity(process, denoise.uncounted(x, time), time)


def _clean_estimate(
  process: Process, denoise: Any, t: Time, s: Time, x: Array
) -> tuple[Array, Array]:
  """x at time 0, from one evaluation."""
  return process.alpha(s) * denoise.uncounted(x, t).x0, jnp.ones((), jnp.int32)
