"""Exponential integrators in λ = log(α/σ): DPM-Solver++ and UniPC; and an adaptive solver.

With λ as time the probability flow is semi-linear, and its exact solution from t to s is
x_s = σ_s/σ_t·x_t + α_s·∫ e^(λ−λ_s) x0(λ) dλ (Lu et al. 2022b, proposition 4.1): the solvers
differ in how they extend the clean estimate x0 over the step. A past estimate that is missing has
λ = −∞; then, as on a step from pure noise (λ_t = −∞) or to clean data (λ_s = ∞), the order falls to
what is left.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from diffusion.predictions import normal_like, velocity
from diffusion.processes.process import Process
from diffusion.sampling.solvers import Sampler, Times, refuse_outside


class Past(NamedTuple):
  """Clean estimates of earlier steps, the latest first, and where they were made.

  Attributes:
    clean: each like x.
    lambdas: log(α/σ) of each, −∞ for those that do not exist.
  """

  clean: tuple[Array, ...]
  lambdas: tuple[Array, ...]


def _no_past(length: int, x: Array) -> Past:
  return Past((jnp.zeros_like(x),) * length, (jnp.asarray(-jnp.inf, x.dtype),) * length)


def _remember(past: Past, clean: Array, lam: Array) -> Past:
  return Past((clean, *past.clean[:-1]), (lam, *past.lambdas[:-1]))


def half_log_snr(process: Process, t: Times) -> Array:
  """λ = log(α/σ), half the log-SNR."""
  return 0.5 * process.log_snr(t)


def _ratio(a: Array, b: Array) -> Array:
  """a/b, and 0 where either is not finite: a term that needs both does not exist there."""
  known = jnp.isfinite(a) & jnp.isfinite(b)
  return jnp.where(known, a / jnp.where(known, b, 1), 0)


def _first_order(process: Process, x: Array, t: Times, s: Times, h: Array, clean: Array) -> Array:
  """The step with x0 constant over it: DDIM in another form."""
  return process.sigma(s) / process.sigma(t) * x - process.alpha(s) * jnp.expm1(-h) * clean


def dpmpp_2m() -> Sampler:
  """DPM-Solver++(2M): second order, one evaluation (Lu et al. 2022b, algorithm 2)."""

  def step(process, x, t, s, denoise, key, past):
    clean = denoise(x, t).x0
    lam = half_log_snr(process, t)
    h = half_log_snr(process, s) - lam
    slope = 0.5 * _ratio(h, lam - past.lambdas[0])
    extended = clean + slope * (clean - past.clean[0])
    return _first_order(process, x, t, s, h, extended), _remember(past, clean, lam)

  return Sampler(step, lambda x, steps: _no_past(1, x), deterministic=True)


def dpmpp_2s() -> Sampler:
  """DPM-Solver++(2S): second order, two evaluations (Lu et al. 2022b, algorithm 1, r = 1/2).

  Halfway in λ lies a time that the process must be able to find: of a discrete process it is one
  between two table entries. A step to clean data or from pure noise takes one evaluation.
  """

  def step(process, x, t, s, denoise, key, carry):
    first = denoise(x, t)
    lam = half_log_snr(process, t)
    h = half_log_snr(process, s) - lam
    finite = jnp.isfinite(h)
    half = jnp.where(finite, 0.5 * h, 1)
    middle = jnp.where(finite, process.time_of(2 * (jnp.where(finite, lam, 0) + half)), t)
    inner = _first_order(process, x, t, middle, half, first.x0)
    second = denoise.when(finite, inner, middle, first)
    return _first_order(process, x, t, s, h, second.x0), carry

  return Sampler(step, evaluations=lambda steps: 2 * steps - 1, deterministic=True)


def dpmpp_3m_sde(eta: float = 1.0, s_noise: float = 1.0, curvature: float = 0.5) -> Sampler:
  """DPM-Solver++(3M) on the reverse SDE, one evaluation (Crowson's k-diffusion, for any α and σ).

  x0 is a parabola in λ through the last three estimates, which wants a grid of similar steps in λ
  (`karras`, `log_snr`): from a short step to one several times as long it extrapolates wildly.

  Args:
    eta: 0 for the probability flow, 1 for the reverse SDE.
    s_noise: standard deviation of the noise, relative to what it should be.
    curvature: weight of the parabola's curvature. 1 integrates the parabola exactly, and is third
      order where eta is 0. 0.5 is the weight in the code of k-diffusion and diffusers: second
      order, but steadier with few steps.

  Raises:
    ValueError: when eta or curvature is outside [0, 1], or s_noise negative.
  """
  refuse_outside('dpmpp_3m_sde.eta', eta, 0.0, 1.0)
  refuse_outside('dpmpp_3m_sde.curvature', curvature, 0.0, 1.0)
  refuse_outside('dpmpp_3m_sde.s_noise', s_noise, 0.0, float('inf'))

  def step(process, x, t, s, denoise, key, past):
    clean = denoise(x, t).x0
    lam = half_log_snr(process, t)
    h = half_log_snr(process, s) - lam
    full = h * (1 + eta)
    decay = jnp.exp(-h * eta) if eta else 1.0
    moved = process.sigma(s) / process.sigma(t) * decay * x
    moved = moved - process.alpha(s) * jnp.expm1(-full) * clean
    moved = moved + process.alpha(s) * _parabola(past, clean, lam, h, full, curvature)
    if eta:
      spread = process.sigma(s) * jnp.sqrt(-jnp.expm1(-2 * eta * h))
      moved = moved + s_noise * spread * normal_like(key, x)
    return moved, _remember(past, clean, lam)

  return Sampler(step, lambda x, steps: _no_past(2, x), deterministic=eta == 0)


def _parabola(
  past: Past, clean: Array, lam: Array, h: Array, full: Array, curvature: float
) -> Array:
  """What slope and curvature of x0 in λ add to a first-order step."""
  h1, h2 = lam - past.lambdas[0], past.lambdas[0] - past.lambdas[1]
  late = _ratio(h, h1) * (clean - past.clean[0])
  early = _ratio(h, h2) * (past.clean[0] - past.clean[1])
  # Without the earlier of the two slopes there is no curvature.
  bend = jnp.where(jnp.isfinite(h2), late - early, 0)
  slope = late + _ratio(h1, h1 + h2) * bend
  curve = _ratio(h, h1 + h2) * bend
  finite = jnp.isfinite(full)
  span = jnp.where(finite, full, 1)
  phi2 = jnp.expm1(-span) / span + 1
  return jnp.where(finite, phi2 * slope + curvature * (1 - 2 * phi2 / span) * curve, 0)


VARIANTS = ('bh1', 'bh2')


class _UniState(NamedTuple):
  past: Past  # the step before's own estimate first
  x: Array  # where that step started
  t: Array


def unipc(order: int = 2, variant: str = 'bh2') -> Sampler:
  """UniPC: a predictor, and a corrector that reuses its evaluation (Zhao et al. 2023).

  Each step evaluates at the predicted x, corrects x with that estimate, and predicts the next x
  from the corrected one: one evaluation, and an order above the predictor's.

  Args:
    order: of the predictor, 1 to 3.
    variant: the paper's B₁(h) = h or B₂(h) = e^h − 1.

  Raises:
    ValueError: for another order or variant.
  """
  if order not in (1, 2, 3):
    raise ValueError(f'unipc.order={order}; known: 1, 2, 3')
  if variant not in VARIANTS:
    raise ValueError(f'unipc.variant={variant!r}; known: {", ".join(VARIANTS)}')

  def init(x, steps):
    return _UniState(_no_past(order, x), x, jnp.zeros((), x.dtype))

  def step(process, x, t, s, denoise, key, state):
    clean = denoise(x, t).x0
    lam, known = half_log_snr(process, t), jnp.isfinite(state.past.lambdas[0])
    # Before the first step there is nothing to correct; the values below then go unused.
    from_t = jnp.where(known, state.t, t)
    corrected = _unified(variant, process, state.x, from_t, t, state.past, clean)
    x = jnp.where(known, corrected, x)
    past = _remember(state.past, clean, lam)
    return _unified(variant, process, x, t, s, past, None), _UniState(past, x, t)

  return Sampler(step, init, deterministic=True)


def _unified(variant, process, x, t, s, past, newest):
  """UniP from t to s, or UniC where `newest`, the estimate at s, is known. past[0] is that at t."""
  h = half_log_snr(process, s) - past.lambdas[0]
  base = _first_order(process, x, t, s, h, past.clean[0])
  finite = jnp.isfinite(h)
  span = jnp.where(finite, h, 1)
  valid = [jnp.isfinite(lam) for lam in past.lambdas[1:]]
  available = sum((v.astype(jnp.int32) for v in valid), jnp.zeros((), jnp.int32))
  orders = [
    functools.partial(_unified_terms, variant, order) for order in range(1, len(past.clean) + 1)
  ]
  terms = jax.lax.switch(available, orders, span, past, newest)
  return base - process.alpha(s) * jnp.where(finite, terms, 0)


def _unified_terms(variant, order, h, past, newest):
  """B(h)·Σ ρ_m·D_m/r_m over the differences of clean estimates (Zhao et al. 2023)."""
  lam = past.lambdas[0]
  ratios = [(past.lambdas[m] - lam) / h for m in range(1, order)]
  differences = [
    (past.clean[m] - past.clean[0]) / r for m, r in zip(range(1, order), ratios, strict=True)
  ]
  if newest is not None:
    ratios, differences = [*ratios, jnp.ones_like(h)], [*differences, newest - past.clean[0]]
  if not differences:
    return jnp.zeros_like(past.clean[0])
  size = -h if variant == 'bh1' else jnp.expm1(-h)
  weights = _unified_weights(h, ratios, size)
  return size * sum(w * d for w, d in zip(weights, differences, strict=True))


def _unified_weights(h: Array, ratios: list, size: Array) -> Float[Array, 'terms']:
  """ρ with Σ_m ρ_m·r_m^(n−1) = n!·φ_(n+1)(−h)/B(h): order conditions (theorem 3.1)."""
  if len(ratios) == 1:
    return jnp.full((1,), 0.5, h.dtype)  # to its order the same; the paper's choice
  phi, factorial, right = jnp.expm1(-h) / -h - 1, 1, []
  for n in range(1, len(ratios) + 1):
    right.append(phi * factorial / size)
    factorial *= n + 1
    phi = phi / -h - 1 / factorial
  rows = jnp.stack(ratios)[None] ** jnp.arange(len(ratios))[:, None]
  return jnp.linalg.solve(rows, jnp.stack(right))


def adaptive(rtol: float = 1e-4, atol: float = 1e-4, max_steps: int = 1000) -> Sampler:
  """The probability flow by diffrax's Tsit5 with step-size control, between the grid's times.

  A grid of one step integrates the whole flow; a step to clean data takes the clean estimate. The
  batch shares its step sizes, and x becomes NaN where `max_steps` do not suffice. Under guidance
  that switches with time, every evaluation is counted as the dearest between t and s.

  Args:
    rtol, atol: relative and absolute tolerance, of the root mean square over the batch.
    max_steps: of the solver, between two times of the grid.

  Raises:
    ValueError: for a tolerance that is not positive.
  """
  import diffrax  # imported where it is used: it takes a second

  if rtol <= 0 or atol <= 0:
    raise ValueError(f'adaptive: rtol={rtol} and atol={atol} must be positive')
  controller = diffrax.PIDController(rtol=rtol, atol=atol)

  def step(process, x, t, s, denoise, key, carry):
    def flow(time, x, _):
      return velocity(process, denoise.uncounted(x, time), time)

    def integrate(x):
      solution = diffrax.diffeqsolve(
        diffrax.ODETerm(flow),
        diffrax.Tsit5(),
        t,
        s,
        None,
        x,
        stepsize_controller=controller,
        max_steps=max_steps,
        throw=False,
      )
      done = solution.result == diffrax.RESULTS.successful
      taken = solution.stats['num_steps'].astype(jnp.int32)
      # Six stages a step, the seventh being the first of the next; one to start.
      return jnp.where(done, solution.ys[0], jnp.nan), 6 * taken + 1

    def finish(x):
      return process.alpha(s) * denoise.uncounted(x, t).x0, jnp.ones((), jnp.int32)

    x, calls = jax.lax.cond(process.sigma(s) > 0, integrate, finish, x)
    denoise.charge_between(calls, t, s)
    return x, carry

  return Sampler(step, evaluations=None, deterministic=True)
