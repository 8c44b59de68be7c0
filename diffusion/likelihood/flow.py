"""Exact likelihood of the probability flow, on the device.

The flow dx/dt = α′(t)·x̂0 + σ′(t)·ε̂ has the marginals of the diffusion (Song et al. 2021, eq. 13, in
terms of α and σ, so that it is finite where α = 0). Its log-density changes by the divergence:
log p(z) = log N(z_T; 0, prior_std²) + ∫ div dt from t_min to t_max (eq. 39).

Data is discrete, the flow's density continuous. The mass that the model gives to a value is that
of its cell; Jensen's inequality bounds it by noise u within the cell, drawn from some q(u | x):
−log P(x) <= E[log q(z | x) − log p(z)] with z = α(t_min)·(x + u). The more of K importance samples
are averaged inside the logarithm, the tighter (Burda et al. 2016).
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Key

from common.config import ConfigError, pick
from common.method import Likelihood
from diffusion.likelihood.bound import sum_dims
from diffusion.predictions import Denoise, normal_like, velocity
from diffusion.processes.process import Process

Images = Float[Array, 'batch *dims']
Drift = Callable[[Array, Array], Array]


class LogDensity(NamedTuple):
  """log p(z) in nats, one estimate per probe, and what it took.

  Attributes:
    values: [probes, batch]; independent estimates whose mean is the answer. NaN where the solver
      did not arrive within its steps.
    steps: steps the solver tried.
  """

  values: Float[Array, 'probes batch']
  steps: Int[Array, '']


def flow_drift(process: Process, denoise: Denoise) -> Drift:
  """(x [batch, ...], t scalar) -> dx/dt of the probability flow."""
  return lambda x, t: velocity(process, denoise(x, jnp.full(x.shape[0], t, x.dtype)), t)


def exact_divergence(drift: Drift, x: Images, t: Array) -> tuple[Images, Float[Array, '1 batch']]:
  """Drift and its divergence, by one forward derivative per dimension."""
  size = math.prod(x.shape[1:])

  def diagonal(index):
    one = jnp.zeros(size, x.dtype).at[index].set(1).reshape(x.shape[1:])
    tangent = jax.jvp(lambda x: drift(x, t), (x,), (jnp.broadcast_to(one, x.shape),))[1]
    return tangent.reshape(x.shape[0], size)[:, index]

  return drift(x, t), jax.lax.map(diagonal, jnp.arange(size)).sum(axis=0)[None]


def hutchinson_divergence(
  drift: Drift, x: Images, t: Array, probes: Float[Array, 'probes batch *dims']
) -> tuple[Images, Float[Array, 'probes batch']]:
  """Drift and v·J·v for each probe v: one evaluation, one pull-back per probe."""
  value, pull = jax.vjp(lambda x: drift(x, t), x)
  return value, jax.vmap(lambda v: sum_dims(v * pull(v)[0]))(probes)


def _rademacher(keys: Key[Array, 'batch'], x: Images) -> Images:
  return jax.vmap(lambda key: jax.random.rademacher(key, x.shape[1:], x.dtype))(keys)


PROBES = {'rademacher': _rademacher, 'gaussian': normal_like}
SOLVERS = {'dopri5': 'Dopri5', 'tsit5': 'Tsit5', 'bosh3': 'Bosh3'}  # diffrax's names


def flow_log_density(
  process: Process,
  denoise: Denoise,
  z: Images,
  probes: Float[Array, 'probes batch *dims'] | None,
  *,
  solver: str = 'dopri5',
  rtol: float = 1e-5,
  atol: float = 1e-5,
  max_steps: int = 4096,
) -> LogDensity:
  """log-density of the flow's model at z, which is at time t_min.

  Adaptive steps, common to the batch; to be jitted by the caller. Pure: the probes are given, the
  same along the whole path, so that the integrand is a function.

  Args:
    process: the diffusion process.
    denoise: (x, t [batch]) -> Pair.
    z: where.
    probes: vectors of Hutchinson's estimator, or None for the exact trace.
    solver: a key of `SOLVERS`.
    rtol, atol: tolerances of a step.
    max_steps: after which the answer is NaN.
  """
  import diffrax  # imported where it is used: it takes a second

  drift = flow_drift(process, denoise)

  def field(t, state, _):
    if probes is None:
      return exact_divergence(drift, state[0], t)
    return hutchinson_divergence(drift, state[0], t, probes)

  number = 1 if probes is None else probes.shape[0]
  start = z, jnp.zeros((number, z.shape[0]), z.dtype)
  t_min, t_max = jnp.asarray([process.t_min, process.t_max], z.dtype)
  solution = diffrax.diffeqsolve(
    diffrax.ODETerm(field),
    getattr(diffrax, pick(SOLVERS, solver, 'likelihood.solver'))(),
    t0=t_min,
    t1=t_max,
    dt0=None,
    y0=start,
    stepsize_controller=diffrax.PIDController(rtol=rtol, atol=atol),
    max_steps=max_steps,
    throw=False,
  )
  (end, change), std = jax.tree.map(lambda leaf: leaf[0], solution.ys), process.prior_std
  size = math.prod(z.shape[1:])
  prior = -0.5 * sum_dims((end / std) ** 2) - size * math.log(std * math.sqrt(2 * math.pi))
  arrived = solution.result == diffrax.RESULTS.successful
  values = jnp.where(arrived, prior + change, jnp.nan)
  return LogDensity(values, jnp.asarray(solution.stats['num_steps'], jnp.int32))


def _uniform(process: Process, keys: Key[Array, 'batch'], x0: Images, width: float):
  """u uniform in the cell, and log q(z | x)."""
  u = jax.vmap(lambda key: jax.random.uniform(key, x0.shape[1:], x0.dtype, -0.5, 0.5))(keys)
  alpha = process.alpha(jnp.asarray(process.t_min, x0.dtype))
  log_q = -math.prod(x0.shape[1:]) * jnp.log(width * alpha)
  return u * width, jnp.broadcast_to(log_q, x0.shape[:1])


def _variational(process: Process, keys: Key[Array, 'batch'], x0: Images, width: float):
  """u as the process's own noise at t_min, cut off at the cell (Zheng et al. 2023)."""
  t_min = jnp.asarray(process.t_min, x0.dtype)
  alpha, spread = process.alpha(t_min), jnp.exp(-0.5 * process.log_snr(t_min))
  reach = 0.5 * width / spread
  v = jax.vmap(lambda k: jax.random.truncated_normal(k, -reach, reach, x0.shape[1:], x0.dtype))(
    keys
  )
  log_mass = jnp.log(jax.scipy.special.erf(reach / math.sqrt(2)))
  log_q = jax.scipy.stats.norm.logpdf(v) - log_mass - jnp.log(spread * alpha)
  return v * spread, sum_dims(log_q)


DEQUANTIZATIONS = {'uniform': _uniform, 'variational': _variational}
TRACES = ('exact', 'hutchinson')


def flow_likelihood(
  trace: str = 'hutchinson',
  probe: str = 'rademacher',
  probes: int = 1,
  dequantization: str = 'uniform',
  samples: int = 2,
  importance: bool = False,
  solver: str = 'dopri5',
  rtol: float = 1e-5,
  atol: float = 1e-5,
  max_steps: int = 4096,
) -> Callable[..., Likelihood]:
  """The likelihood of the probability flow as an estimator (see `likelihood.LIKELIHOODS`).

  Args:
    trace: 'exact' or 'hutchinson'.
    probe: distribution of Hutchinson's probes.
    probes: their number, drawn once per sample and averaged.
    dequantization: 'uniform' within a value's cell, or 'variational'.
    samples: dequantised samples per example, each an ODE solve; their spread is the standard
      error, so at least 2.
    importance: average the samples inside the logarithm, a tighter bound, in place of outside. It
      takes the exact trace: there the noise of Hutchinson's estimate would count as likelihood.
    solver, rtol, atol, max_steps: see `flow_log_density`.

  Raises:
    ConfigError: for unknown names, numbers that are too small, or importance without exact trace.
  """
  if trace not in TRACES:
    raise ConfigError(f'unknown likelihood.trace {trace!r}; known: {", ".join(TRACES)}')
  draw_probe = pick(PROBES, probe, 'likelihood.probe')
  dequantize = pick(DEQUANTIZATIONS, dequantization, 'likelihood.dequantization')
  pick(SOLVERS, solver, 'likelihood.solver')
  if importance and trace != 'exact':
    raise ConfigError(
      f"likelihood.importance needs trace='exact', not {trace!r}: the noise of the estimated trace,"
      ' averaged inside the logarithm, would make the likelihood too high'
    )
  if samples < 2 or probes < 1 or max_steps < 1 or not (rtol > 0 and atol > 0):
    raise ConfigError(
      f'likelihood: samples={samples} must be at least 2, probes={probes} and max_steps={max_steps}'
      f' at least 1, rtol={rtol} and atol={atol} positive'
    )

  def one(process, denoise, x0, levels, keys):
    split = jax.vmap(lambda key: jax.random.split(key, 1 + probes), out_axes=1)(keys)
    u, log_q = dequantize(process, split[0], x0, 2.0 / (levels - 1))
    z = process.alpha(jnp.asarray(process.t_min, x0.dtype)) * (x0 + u)
    vectors = None if trace == 'exact' else jax.vmap(lambda k: draw_probe(k, x0))(split[1:])
    density = flow_log_density(
      process, denoise, z, vectors, solver=solver, rtol=rtol, atol=atol, max_steps=max_steps
    )
    return log_q - density.values.mean(axis=0)

  def estimate(process, denoise, x0, levels, keys, variance):
    number = jnp.arange(samples)
    nats = jax.lax.map(
      lambda i: one(process, denoise, x0, levels, jax.vmap(jax.random.fold_in, (0, None))(keys, i)),
      number,
    )
    return importance_mean(nats) if importance else plain_mean(nats)

  return estimate


def plain_mean(nats: Float[Array, 'samples batch']) -> Likelihood:
  """Mean of the samples, and its standard error."""
  return Likelihood(nats.mean(axis=0), nats.std(axis=0, ddof=1) / math.sqrt(nats.shape[0]))


def importance_mean(nats: Float[Array, 'samples batch']) -> Likelihood:
  """−log mean exp(−nats); its standard error by the delta method."""
  number = nats.shape[0]
  least = nats.min(axis=0)
  weight = jnp.exp(least - nats)
  mean = weight.mean(axis=0)
  return Likelihood(least - jnp.log(mean), weight.std(axis=0, ddof=1) / mean / math.sqrt(number))
