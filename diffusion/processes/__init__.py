"""Gaussian diffusion processes x_t = α(t)·x₀ + σ(t)·ε, from data (time 0) to noise (time t_max).

A process is a few pure elementwise functions of time. Its log-SNR λ = log(α²/σ²) is the
primitive: for a variance-preserving process α² = sigmoid(λ) and σ² = sigmoid(−λ), and every
process can be inverted in λ. The forward SDE dx = f(t)·x dt + g(t) dw with these marginals follows
by automatic differentiation: f = d log α/dt and g² = −σ²·dλ/dt.

Time 0 is clean data in every process (α = 1, σ = 0, λ = ∞): a sampler's last step ends there.
`t_min` is the smallest time at which a network is trained and evaluated.
"""

import logging
import math

import jax
import jax.numpy as jnp
import numpy as np

from common.config import ConfigError, component
from diffusion.processes.discrete import DDPM
from diffusion.processes.gaussian import (
  EDM,
  GVP,
  VE,
  Cosine,
  RectifiedFlow,
  Shifted,
  Sigmoid,
  SubVP,
  VPInterpolant,
  VPLinear,
)
from diffusion.processes.learned import Learned
from diffusion.processes.process import Process

TERMINAL_SNR = 1e-2  # above this SNR at t_max, noise still shows the data, and `build` warns

PROCESSES = {
  'vp_linear': VPLinear,
  'cosine': Cosine,
  'sigmoid': Sigmoid,
  'shifted': Shifted,
  'sub_vp': SubVP,
  've': VE,
  'edm': EDM,
  'rectified_flow': RectifiedFlow,
  'gvp': GVP,
  'vp_interpolant': VPInterpolant,
  'ddpm': DDPM,
  'learned': Learned,
}


def build(settings) -> Process:
  """The process of a config, its times checked; warns if noise at t_max still shows the data.

  Raises:
    ConfigError: for an unknown name or setting, times that do not satisfy 0 < t_min < t_max, or a
      log-SNR that does not fall from one to the other.
  """
  process = component(PROCESSES, settings, 'process')
  if not 0 < process.t_min < process.t_max:
    raise ConfigError(
      f'process {process.name!r}: times must satisfy 0 < t_min < t_max,'
      f' got t_min={process.t_min} and t_max={process.t_max}'
    )
  # Concrete numbers even while tracing: a config is checked when its model is built.
  with jax.ensure_compile_time_eval():
    first, last = np.asarray(process.log_snr(jnp.asarray([process.t_min, process.t_max])))
  if not first > last:
    raise ConfigError(
      f'process {process.name!r}: the log-SNR must fall from t_min to t_max, got {first} at t_min'
      f' and {last} at t_max'
    )
  # Lin et al. 2023: with signal left at t_max, training and sampling start from different noise.
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
