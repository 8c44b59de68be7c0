"""A learned log-SNR (Kingma et al. 2021)."""

import jax
import jax.numpy as jnp

from diffusion.processes.process import Process, bisect, variance_preserving


def learned(
  log_snr_max: float = 13.3,
  log_snr_min: float = -5.0,
  width: int = 1024,
  t_min: float = 1e-5,
) -> Process:
  """A monotone network for the log-SNR (Kingma et al. 2021, appendix H); its ends are learned too.

  Until it is bound to parameters, λ falls linearly between the two bounds, which is also about
  where it starts. Time 1 is the noisiest. The parameters are `ends`, by which the bound differs,
  and `shape`, by which only the variance of its estimate does.
  """

  def init(key):
    first, second, third = jax.random.split(key, 3)
    normal = lambda key: jax.random.normal(key, (width,), jnp.float32)
    ends = {'log_snr_max': jnp.float32(log_snr_max), 'log_snr_min': jnp.float32(log_snr_min)}
    shape = {
      'linear': jnp.float32(1.0),
      'hidden': normal(first),
      'bias': normal(second),
      'out': 0.01 / width * normal(third),
    }
    return {'ends': ends, 'shape': shape}

  def raw(shape, t):
    hidden = jax.nn.sigmoid(4 * (t[..., None] - 0.5) * jnp.abs(shape['hidden']) + shape['bias'])
    return jnp.abs(shape['linear']) * t + hidden @ jnp.abs(shape['out'])

  def bind(params):
    def log_snr(t):
      cast = jax.tree.map(lambda leaf: jnp.asarray(leaf, t.dtype), params)
      shape, ends = cast['shape'], cast['ends']
      low, high = raw(shape, jnp.zeros((), t.dtype)), raw(shape, jnp.ones((), t.dtype))
      fraction = (raw(shape, (t - t_min) / (1 - t_min)) - low) / (high - low)
      return ends['log_snr_max'] + (ends['log_snr_min'] - ends['log_snr_max']) * fraction

    return variance_preserving('learned', log_snr, bisect(log_snr, t_min, 1.0), t_min, 1.0)

  def linear(t):
    return log_snr_max + (log_snr_min - log_snr_max) * (t - t_min) / (1 - t_min)

  def linear_time(value):
    return t_min + (1 - t_min) * (value - log_snr_max) / (log_snr_min - log_snr_max)

  return variance_preserving('learned', linear, linear_time, t_min, 1.0, init=init, bind=bind)
