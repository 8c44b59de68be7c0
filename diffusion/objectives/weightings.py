"""How much each noise level counts in the loss.

A loss is a mean over examples of W·‖x₀ − x̂₀‖² per dimension, at times t drawn from some density,
where W is a weighting *of the error in x₀*. A network that predicts another target y = a·x₀ + b·ε
has ‖y − ŷ‖² = (Δ/σ)²·‖x₀ − x̂₀‖² with Δ = α·b − σ·a, so its error is weighted by W·(σ/Δ)². Each
weighting is therefore written once and means the same for every target. In terms of SNR = α²/σ²:

  weighting      W                                          source
  simple         (Δ/σ)²: the target's own error, unweighted Ho et al. 2020, eq. 14
  snr            SNR: the error in ε, unweighted
  snr_plus_one   SNR + 1                                    Salimans & Ho 2022, section 4
  truncated_snr  max(SNR, 1)                                Salimans & Ho 2022, section 4
  min_snr        min(SNR, γ)                                Hang et al. 2023, section 3.4
  soft_min_snr   γ·SNR/(SNR + γ)                            Crowson et al. 2024, appendix C, eq. 5
  p2             SNR/(k + SNR)^γ                            Choi et al. 2022
  edm            SNR + 1/σ_d²                               Karras et al. 2022, table 1
  vlb            −½·SNR·dλ/dt / density of t                Kingma et al. 2021, eq. 16
  sigmoid        sigmoid(b − λ)·vlb                         Kingma & Gao 2023
  likelihood     −SNR·dλ/dt / density of t = 2·vlb: g² times the error in the score
                                                            Song et al. 2021b

The last three weigh the integral over λ, whichever times are drawn: they divide by the density of
λ. The others weigh the draws, so that the times matter as much as the weight. (Without the density,
the weight sigmoid(b − λ) of the error in ε would be soft_min_snr with γ = e^b.)
"""

import dataclasses
import math
from typing import Annotated, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from common.ranges import ABOVE_ZERO, AT_LEAST_ZERO, FINITE
from diffusion.predictions import Pair, determinant
from diffusion.processes.process import Process, rate


class NoiseLevel(NamedTuple):
  """A noise level of each example, as a weighting sees it. Each entry is [batch].

  Attributes:
    log_snr: λ.
    target_factor: (Δ/σ)²; a squared error in x0 times this factor is the error in the target.
    inverse_density: 1/p(λ) = −dλ/dt over the density of t (Kingma & Gao 2023). As a weight, it
      turns the mean over times into an integral over λ.
  """

  log_snr: Float[Array, 'batch']
  target_factor: Float[Array, 'batch']
  inverse_density: Float[Array, 'batch']

  @property
  def snr(self) -> Float[Array, 'batch']:
    return jnp.exp(self.log_snr)


class Weighting:
  """A weight of the squared error in x0. Each weighting is a frozen dataclass.

  Attributes:
    over_log_snr: whether it weighs the integral over λ, and so needs the density of the times.
  """

  over_log_snr: ClassVar[bool] = False

  def weight(self, at: NoiseLevel) -> Float[Array, 'batch']:
    """W at the noise level of each example."""
    raise NotImplementedError


@dataclasses.dataclass(frozen=True)
class Simple(Weighting):
  """The target's own error, unweighted (Ho et al. 2020, eq. 14)."""

  def weight(self, at: NoiseLevel) -> Float[Array, 'batch']:
    return at.target_factor


@dataclasses.dataclass(frozen=True)
class SNR(Weighting):
  """SNR: the error in eps, unweighted."""

  def weight(self, at: NoiseLevel) -> Float[Array, 'batch']:
    return at.snr


@dataclasses.dataclass(frozen=True)
class SNRPlusOne(Weighting):
  """SNR + 1: the error in v of a variance-preserving process (Salimans & Ho 2022)."""

  def weight(self, at: NoiseLevel) -> Float[Array, 'batch']:
    return at.snr + 1


@dataclasses.dataclass(frozen=True)
class TruncatedSNR(Weighting):
  """max(SNR, 1): the larger of the errors in x0 and in eps (Salimans & Ho 2022)."""

  def weight(self, at: NoiseLevel) -> Float[Array, 'batch']:
    return jnp.maximum(at.snr, 1)


@dataclasses.dataclass(frozen=True)
class MinSNR(Weighting):
  """min(SNR, γ) (Hang et al. 2023).

  Attributes:
    gamma: γ, the largest weight.
  """

  gamma: Annotated[float, ABOVE_ZERO] = 5.0

  def weight(self, at: NoiseLevel) -> Float[Array, 'batch']:
    return jnp.minimum(at.snr, self.gamma)


@dataclasses.dataclass(frozen=True)
class SoftMinSNR(Weighting):
  """γ·SNR/(SNR + γ) (Crowson et al. 2024).

  Attributes:
    gamma: γ, the limit of the weight at small noise.
  """

  gamma: Annotated[float, ABOVE_ZERO] = 4.0

  def weight(self, at: NoiseLevel) -> Float[Array, 'batch']:
    # SNR/(SNR + γ) = sigmoid(log SNR − log γ), which does not overflow at small noise.
    return self.gamma * jax.nn.sigmoid(at.log_snr - math.log(self.gamma))


@dataclasses.dataclass(frozen=True)
class P2(Weighting):
  """SNR/(k + SNR)^γ (Choi et al. 2022).

  Attributes:
    k: keeps the weight finite where SNR is small.
    gamma: γ; 0 is the error in eps.
  """

  k: Annotated[float, ABOVE_ZERO] = 1.0
  gamma: Annotated[float, AT_LEAST_ZERO] = 1.0

  def weight(self, at: NoiseLevel) -> Float[Array, 'batch']:
    return at.snr / (self.k + at.snr) ** self.gamma


@dataclasses.dataclass(frozen=True)
class EDM(Weighting):
  """SNR + 1/σ_d² (Karras et al. 2022, table 1).

  Attributes:
    sigma_data: σ_d, the standard deviation of the data.
  """

  sigma_data: Annotated[float, ABOVE_ZERO] = 0.5

  def weight(self, at: NoiseLevel) -> Float[Array, 'batch']:
    # λ(σ) = (σ² + σ_d²)/(σ·σ_d)² (Karras et al. 2022, table 1) with SNR = 1/σ².
    return at.snr + 1 / self.sigma_data**2


@dataclasses.dataclass(frozen=True)
class VLB(Weighting):
  """The variational bound: ½·SNR/p(λ)."""

  over_log_snr = True

  def weight(self, at: NoiseLevel) -> Float[Array, 'batch']:
    # ½·∫ ‖ε − ε̂‖² dλ, and ‖ε − ε̂‖² = SNR·‖x0 − x̂0‖².
    return 0.5 * at.snr * at.inverse_density


@dataclasses.dataclass(frozen=True)
class Sigmoid(Weighting):
  """The bound weighted by w(λ) = sigmoid(b − λ): clean images count less (Kingma & Gao 2023).

  Attributes:
    bias: b, the log-SNR above which noise levels count less.
  """

  bias: Annotated[float, FINITE] = 2.0
  over_log_snr = True

  def weight(self, at: NoiseLevel) -> Float[Array, 'batch']:
    # Kingma & Gao 2023: ½·∫ w(λ)·‖ε − ε̂‖² dλ, and ‖ε − ε̂‖² = SNR·‖x0 − x̂0‖².
    return 0.5 * at.snr * at.inverse_density * jax.nn.sigmoid(self.bias - at.log_snr)


@dataclasses.dataclass(frozen=True)
class Likelihood(Weighting):
  """The likelihood weighting of score matching: SNR/p(λ)."""

  over_log_snr = True

  def weight(self, at: NoiseLevel) -> Float[Array, 'batch']:
    # g²·‖∇ log p − s‖² = −σ²·dλ/dt·(α/σ²)²·‖x0 − x̂0‖².
    return at.snr * at.inverse_density


def target_weight(
  weighting: Weighting,
  process: Process,
  pair: Pair,
  t: Float[Array, 'batch'],
  density: Float[Array, 'batch'],
) -> Float[Array, 'batch']:
  """The factor of a target's squared error: W·(σ/Δ)².

  Args:
    weighting: W, of the error in x0.
    process: the diffusion process.
    pair: the target's coefficients at t.
    t: times.
    density: density at t of the distribution of times.
  """
  alpha, sigma = process.alpha(t), process.sigma(t)
  # With x given, an error δ in x0 is −α/σ·δ in eps, and so (a − b·α/σ)·δ = −Δ/σ·δ in the target.
  target_factor = (determinant(pair, alpha, sigma) / sigma) ** 2
  # λ falls with t: p(λ) = p(t)/|dλ/dt|, and the sign makes the derivative positive.
  inverse_density = -rate(process.log_snr, t) / density
  at = NoiseLevel(process.log_snr(t), target_factor, inverse_density)
  return weighting.weight(at) / target_factor
