"""Gaussian processes x_t = α(t)·x₀ + σ(t)·ε, from data (time 0) to noise (time t_max).

A process is a handful of pure elementwise functions of time. Its log-SNR λ = log(α²/σ²) is the
primitive: for a variance-preserving process α² = sigmoid(λ) and σ² = sigmoid(−λ), and every
process can be inverted in λ. The forward SDE dx = f(t)·x dt + g(t) dw with these marginals follows
by automatic differentiation: f = d log α/dt and g² = −σ²·dλ/dt.

Time 0 is clean data in every process (α = 1, σ = 0, λ = ∞): that is where a sampler's last step
ends. `t_min` is the least time at which a network is trained and asked.
"""

import logging
import math

import jax
import jax.numpy as jnp
import numpy as np

from common.config import ConfigError, component
from diffusion.processes.discrete import ddpm
from diffusion.processes.gaussian import (
  cosine,
  edm,
  gvp,
  rectified_flow,
  shifted,
  sigmoid,
  sub_vp,
  ve,
  vp_interpolant,
  vp_linear,
)
from diffusion.processes.learned import learned
from diffusion.processes.process import Process

TERMINAL_SNR = 1e-2  # above this, noise at t_max still shows the data: a warning when built

PROCESSES = {
  'vp_linear': vp_linear,
  'cosine': cosine,
  'sigmoid': sigmoid,
  'shifted': shifted,
  'sub_vp': sub_vp,
  've': ve,
  'edm': edm,
  'rectified_flow': rectified_flow,
  'gvp': gvp,
  'vp_interpolant': vp_interpolant,
  'ddpm': ddpm,
  'learned': learned,
}


def build(settings) -> Process:
  """The process of a config, its times checked; warns where noise at t_max still shows the data.

  Raises:
    ConfigError: for an unknown name or setting, or times that are not 0 < t_min < t_max with a
      log-SNR that falls from one to the other.
  """
  process = component(PROCESSES, settings, 'process')
  if not 0 < process.t_min < process.t_max:
    raise ConfigError(
      f'process {process.name!r}: times must be 0 < t_min < t_max,'
      f' not {process.t_min} and {process.t_max}'
    )
  with jax.ensure_compile_time_eval():
    first, last = np.asarray(process.log_snr(jnp.asarray([process.t_min, process.t_max])))
  if not first > last:
    raise ConfigError(
      f'process {process.name!r}: the log-SNR must fall with time, not go from {first} to {last}'
    )
  terminal = math.exp(last)
  if terminal > TERMINAL_SNR:
    logging.warning(
      'process %r: terminal SNR %.3g at t = %g; samples start from pure noise, which the network'
      ' never saw in training',
      process.name,
      terminal,
      process.t_max,
    )
  return process
