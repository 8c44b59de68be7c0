"""A learned log-SNR (Kingma et al. 2021)."""

import dataclasses
from typing import Annotated, Any, ClassVar

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from common.ranges import ABOVE_ZERO, AT_LEAST_ONE, FINITE
from diffusion.processes.process import Process, VariancePreserving, bisect


@dataclasses.dataclass(frozen=True)
class Learned(VariancePreserving):
  """A monotone network for the log-SNR (Kingma et al. 2021, appendix H); its ends are learned too.

  Without parameters λ falls linearly between the two bounds, almost as at the start of training;
  `at` returns the process with given parameters. Time 1 is the noisiest. The parameters are `ends`,
  which change the bound, and `shape`, which changes only the variance of its estimate.

  Attributes:
    log_snr_max, log_snr_min: λ at the two ends before training.
    width: hidden units of the network.
  """

  name: ClassVar[str] = 'learned'
  t_max: ClassVar[float] = 1.0
  learned: ClassVar[bool] = True
  log_snr_max: Annotated[float, FINITE] = 13.3
  log_snr_min: Annotated[float, FINITE] = -5.0
  width: Annotated[int, AT_LEAST_ONE] = 1024
  t_min: Annotated[float, ABOVE_ZERO] = 1e-5

  def init(self, key: Key[Array, '']) -> dict[str, Any]:
    # One key each for `hidden`, `bias` and `out`; `linear` starts at 1.
    first, second, third = jax.random.split(key, 3)
    # float32 whatever the compute dtype: the bound is sensitive to the ends.
    ends = {
      'log_snr_max': jnp.float32(self.log_snr_max),
      'log_snr_min': jnp.float32(self.log_snr_min),
    }
    shape = {
      'linear': jnp.float32(1.0),
      'hidden': jax.random.normal(first, (self.width,), jnp.float32),
      'bias': jax.random.normal(second, (self.width,), jnp.float32),
      'out': 0.01 / self.width * jax.random.normal(third, (self.width,), jnp.float32),
    }
    return {'ends': ends, 'shape': shape}

  def at(self, params: Any) -> Process:
    return LearnedAt(params, self.t_min)

  def noisy_log_snr(self, t: Array) -> Array:
    return self.log_snr_max + (self.log_snr_min - self.log_snr_max) * (t - self.t_min) / (
      1 - self.t_min
    )

  def time_of(self, log_snr: Array) -> Array:
    return self.t_min + (1 - self.t_min) * (log_snr - self.log_snr_max) / (
      self.log_snr_min - self.log_snr_max
    )


@dataclasses.dataclass(frozen=True, eq=False)
class LearnedAt(VariancePreserving):
  """The learned process with its parameters, {'ends': ..., 'shape': ...}."""

  name: ClassVar[str] = 'learned'
  t_max: ClassVar[float] = 1.0
  params: Any
  t_min: float

  def noisy_log_snr(self, t: Array) -> Array:
    # In the precision of t: float64 where a grid or a test asks for it.
    cast = jax.tree.map(lambda leaf: jnp.asarray(leaf, t.dtype), self.params)
    shape, ends = cast['shape'], cast['ends']
    low, high = monotone(shape, jnp.zeros((), t.dtype)), monotone(shape, jnp.ones((), t.dtype))
    # Scaled to [0, 1], so that only the ends set the first and the last λ (eq. 59).
    fraction = (monotone(shape, (t - self.t_min) / (1 - self.t_min)) - low) / (high - low)
    return ends['log_snr_max'] + (ends['log_snr_min'] - ends['log_snr_max']) * fraction

  def time_of(self, log_snr: Array) -> Array:
    return bisect(self.noisy_log_snr, log_snr, self.t_min, 1.0)


def monotone(shape: Any, t: Float[Array, '*shape']) -> Float[Array, '*shape']:
  """A network of one hidden layer that rises with t, because its weights enter as |w|.

  As in the authors' code the hidden layer sees t itself; in the paper it sees the linear layer.
  """
  hidden = jax.nn.sigmoid(4 * (t[..., None] - 0.5) * jnp.abs(shape['hidden']) + shape['bias'])
  return jnp.abs(shape['linear']) * t + hidden @ jnp.abs(shape['out'])
