"""Exact likelihood of the probability flow, computed on the device.

The flow dx/dt = α′(t)·x̂0 + σ′(t)·ε̂ has the marginals of the diffusion (Song et al. 2021, eq. 13, in
terms of α and σ, so that it is finite where α = 0). Its log-density changes by the divergence:
log p(z) = log N(z_T; 0, prior_std²) + ∫ div dt from t_min to t_max (eq. 39).

Data is discrete, and the flow's density continuous. The model's probability of a value is the mass
of the value's cell. With noise u within the cell, drawn from some q(u | x), Jensen's inequality
bounds it:
−log P(x) <= E[log q(z | x) − log p(z)] with z = α(t_min)·(x + u). The more importance samples are
averaged inside the logarithm, the tighter the bound (Burda et al. 2016).
"""

import dataclasses
import functools
import math
from collections.abc import Callable
from typing import Annotated, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Key

from common.config import ConfigError
from common.method import Likelihood
from common.ranges import ABOVE_ZERO, AT_LEAST_ONE, Interval, OneOf
from diffusion.likelihood.bound import Estimator
from diffusion.likelihood.terms import sum_dims
from diffusion.predictions import Denoise, fold_in_each, normal_like, velocity
from diffusion.processes.process import Process

Images = Float[Array, 'batch *dims']
Drift = Callable[[Array], Array]  # at one time


class LogDensity(NamedTuple):
  """log p(z) in nats, one estimate per probe.

  Attributes:
    values: [probes, batch]; independent estimates, whose mean is the answer. NaN if the solver
      did not reach t_max within its maximal number of steps.
    steps: number of steps that the solver tried.
  """

  values: Float[Array, 'probes batch']
  steps: Int[Array, '']


@dataclasses.dataclass(frozen=True, eq=False)
class FlowField:
  """The right-hand side of the flow's differential equation.

  Attributes:
    process: the diffusion process.
    denoise: (x, t [batch]) -> Pair.
    probes: [probes, batch, ...] vectors of Hutchinson's estimator, or None for the exact trace.
  """

  process: Process
  denoise: Denoise
  probes: Float[Array, 'probes batch *dims'] | None = None

  def drift(self, x: Images, t: Float[Array, '']) -> Images:
    """dx/dt of the probability flow."""
    return velocity(self.process, self.denoise(x, jnp.full(x.shape[0], t, x.dtype)), t)

  def __call__(self, t: Float[Array, ''], state: tuple, _) -> tuple[Array, Array]:
    """Rates of change of (x, log-density), as diffrax calls it."""
    drift = functools.partial(_at_time, self.drift, t)
    if self.probes is None:
      return exact_divergence(drift, state[0])
    return hutchinson_divergence(drift, state[0], self.probes)


def _at_time(drift: Callable, t: Float[Array, ''], x: Images) -> Images:
  return drift(x, t)


def exact_divergence(drift: Drift, x: Images) -> tuple[Images, Float[Array, '1 batch']]:
  """Drift and its divergence, by one forward derivative per dimension."""
  # A loop, not a batch: the derivatives of all dimensions at once would not fit into memory.
  size = math.prod(x.shape[1:])
  diagonal = functools.partial(_diagonal, drift, x)
  return drift(x), jax.lax.map(diagonal, jnp.arange(size)).sum(axis=0)[None]


def _diagonal(drift: Drift, x: Images, index: Int[Array, '']) -> Float[Array, 'batch']:
  """∂drift_i/∂x_i of each example, for dimension i."""
  size = math.prod(x.shape[1:])
  one = jnp.zeros(size, x.dtype).at[index].set(1).reshape(x.shape[1:])
  tangent = jax.jvp(drift, (x,), (jnp.broadcast_to(one, x.shape),))[1]
  return tangent.reshape(x.shape[0], size)[:, index]


def hutchinson_divergence(
  drift: Drift, x: Images, probes: Float[Array, 'probes batch *dims']
) -> tuple[Images, Float[Array, 'probes batch']]:
  """Drift and vᵀ·J·v for each probe v: one evaluation, and one pull-back per probe."""
  # E[vᵀ·J·v] = tr J for E[v·vᵀ] = 1 (Hutchinson 1990); all probes share one linearisation.
  value, pull = jax.vjp(drift, x)
  return value, jax.vmap(lambda v: sum_dims(v * pull(v)[0]))(probes)


def rademacher_like(keys: Key[Array, 'batch'], x: Images) -> Images:
  """±1 with equal probability, drawn for each example from its own key."""
  return jax.vmap(lambda key: jax.random.rademacher(key, x.shape[1:], x.dtype))(keys)


PROBES = {'rademacher': rademacher_like, 'gaussian': normal_like}
SOLVERS = ('dopri5', 'tsit5', 'bosh3')


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
  """Log-density of the flow's model at points z at time t_min. The caller compiles this function.

  The batch shares its adaptive steps. The probes stay the same along the whole path, so that the
  integrand is a function of x and t.

  Args:
    process: the diffusion process.
    denoise: (x, t [batch]) -> Pair.
    z: points at time t_min.
    probes: vectors of Hutchinson's estimator, or None for the exact trace.
    solver: one of `SOLVERS`.
    rtol, atol: relative and absolute tolerance of a step.
    max_steps: maximal number of steps; the answer is NaN if they do not suffice.
  """
  import diffrax  # imported here: loading it takes a second

  solvers = {'dopri5': diffrax.Dopri5, 'tsit5': diffrax.Tsit5, 'bosh3': diffrax.Bosh3}
  number = 1 if probes is None else probes.shape[0]
  # The state is (x, the integral of the divergence so far), one integral per probe.
  start = z, jnp.zeros((number, z.shape[0]), z.dtype)
  t_min, t_max = jnp.asarray([process.t_min, process.t_max], z.dtype)
  solution = diffrax.diffeqsolve(
    diffrax.ODETerm(FlowField(process, denoise, probes)),
    solvers[solver](),
    t0=t_min,
    t1=t_max,
    dt0=None,
    y0=start,
    stepsize_controller=diffrax.PIDController(rtol=rtol, atol=atol),
    max_steps=max_steps,
    throw=False,
  )
  # The state at t_max, and the integral of the divergence along the path.
  (end, change), std = jax.tree.map(lambda leaf: leaf[0], solution.ys), process.prior_std
  size = math.prod(z.shape[1:])
  # log N(z_T; 0, prior_std²), then the instantaneous change of variables (eq. 39).
  prior = -0.5 * sum_dims((end / std) ** 2) - size * math.log(std * math.sqrt(2 * math.pi))
  arrived = solution.result == diffrax.RESULTS.successful
  values = jnp.where(arrived, prior + change, jnp.nan)
  return LogDensity(values, jnp.asarray(solution.stats['num_steps'], jnp.int32))


def uniform_dequantization(
  process: Process, keys: Key[Array, 'batch'], x0: Images, width: float
) -> tuple[Images, Float[Array, 'batch']]:
  """u uniform in the cell, and log q(z | x)."""
  u = jax.vmap(lambda key: jax.random.uniform(key, x0.shape[1:], x0.dtype, -0.5, 0.5))(keys)
  alpha = process.alpha(jnp.asarray(process.t_min, x0.dtype))
  log_q = -math.prod(x0.shape[1:]) * jnp.log(width * alpha)  # z = α·(x + u) scales the density
  return u * width, jnp.broadcast_to(log_q, x0.shape[:1])


def variational_dequantization(
  process: Process, keys: Key[Array, 'batch'], x0: Images, width: float
) -> tuple[Images, Float[Array, 'batch']]:
  """u as the process's own noise at t_min, cut off at the cell (Zheng et al. 2023)."""
  t_min = jnp.asarray(process.t_min, x0.dtype)
  alpha, spread = process.alpha(t_min), jnp.exp(-0.5 * process.log_snr(t_min))  # spread: σ/α
  reach = 0.5 * width / spread  # half a cell, in standard deviations
  # In units of the standard deviation, so that the truncated normal is a standard one.
  v = jax.vmap(lambda k: jax.random.truncated_normal(k, -reach, reach, x0.shape[1:], x0.dtype))(
    keys
  )
  # The mass of the normal within the cell, erf(reach/√2), normalises the truncated density.
  log_mass = jnp.log(jax.scipy.special.erf(reach / math.sqrt(2)))
  log_q = jax.scipy.stats.norm.logpdf(v) - log_mass - jnp.log(spread * alpha)
  return v * spread, sum_dims(log_q)


DEQUANTIZATIONS = {'uniform': uniform_dequantization, 'variational': variational_dequantization}
TRACES = ('exact', 'hutchinson')


@dataclasses.dataclass(frozen=True)
class FlowLikelihood(Estimator):
  """The likelihood of the probability flow.

  Attributes:
    trace: 'exact' or 'hutchinson'.
    probe: distribution of Hutchinson's probes.
    probes: number of probes, drawn once per sample; their estimates are averaged.
    dequantization: 'uniform' within a value's cell, or 'variational'.
    samples: number of dequantised samples per example, each an ODE solve; their spread gives the
      standard error, so at least 2.
    importance: average the samples inside the logarithm instead of outside: a tighter bound. Needs
      the exact trace: inside, the noise of Hutchinson's estimate would raise the likelihood.
    solver, rtol, atol, max_steps: see `flow_log_density`.
  """

  trace: Annotated[str, OneOf(*TRACES)] = 'hutchinson'
  probe: Annotated[str, OneOf(*PROBES)] = 'rademacher'
  probes: Annotated[int, Interval(1, 10_000)] = 1
  dequantization: Annotated[str, OneOf(*DEQUANTIZATIONS)] = 'uniform'
  samples: Annotated[int, Interval(2, 10_000)] = 2
  importance: bool = False
  solver: Annotated[str, OneOf(*SOLVERS)] = 'dopri5'
  rtol: Annotated[float, ABOVE_ZERO] = 1e-5
  atol: Annotated[float, ABOVE_ZERO] = 1e-5
  max_steps: Annotated[int, AT_LEAST_ONE] = 4096

  def __post_init__(self):
    if self.importance and self.trace != 'exact':
      raise ConfigError(
        f"likelihood.importance needs trace='exact', not {self.trace!r}: the noise of the estimated"
        ' trace, averaged inside the logarithm, would make the likelihood too high'
      )

  def estimate(
    self,
    process: Process,
    denoise: Denoise,
    x0: Float[Array, 'batch *dims'],
    levels: int,
    keys: Key[Array, 'batch'],
    variance: str,
  ) -> Likelihood:
    del variance  # the flow has no reverse steps
    one = functools.partial(self._one_sample, process, denoise, x0, levels, keys)
    # One sample after the other: each is an ODE solve of the whole batch.
    nats = jax.lax.map(one, jnp.arange(self.samples))
    return importance_mean(nats) if self.importance else plain_mean(nats)

  def _one_sample(
    self,
    process: Process,
    denoise: Denoise,
    x0: Images,
    levels: int,
    keys: Key[Array, 'batch'],
    number: Int[Array, ''],
  ) -> Float[Array, 'batch']:
    """log q(z | x) − log p(z) of the sample with this number."""
    keys = fold_in_each(keys, number)
    # [1 + probes, batch]: one key for the dequantisation, the others for the probes.
    split = jax.vmap(lambda key: jax.random.split(key, 1 + self.probes), out_axes=1)(keys)
    dequantize, draw = DEQUANTIZATIONS[self.dequantization], PROBES[self.probe]
    u, log_q = dequantize(process, split[0], x0, 2.0 / (levels - 1))
    z = process.alpha(jnp.asarray(process.t_min, x0.dtype)) * (x0 + u)
    vectors = None if self.trace == 'exact' else jax.vmap(lambda k: draw(k, x0))(split[1:])
    density = flow_log_density(
      process,
      denoise,
      z,
      vectors,
      solver=self.solver,
      rtol=self.rtol,
      atol=self.atol,
      max_steps=self.max_steps,
    )
    return log_q - density.values.mean(axis=0)


def plain_mean(nats: Float[Array, 'samples batch']) -> Likelihood:
  """Mean of the samples, and its standard error."""
  return Likelihood(nats.mean(axis=0), nats.std(axis=0, ddof=1) / math.sqrt(nats.shape[0]))


def importance_mean(nats: Float[Array, 'samples batch']) -> Likelihood:
  """−log mean exp(−nats); its standard error by the delta method."""
  number = nats.shape[0]
  # The largest weight becomes 1, so that no exponential overflows.
  least = nats.min(axis=0)
  weight = jnp.exp(least - nats)
  # Delta method: the standard error of log m is the standard error of m, divided by m.
  mean = weight.mean(axis=0)
  return Likelihood(least - jnp.log(mean), weight.std(axis=0, ddof=1) / mean / math.sqrt(number))
