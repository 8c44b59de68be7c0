"""What each player minimises, as functions of the discriminator's logits, by name."""

import dataclasses
from collections.abc import Mapping

import jax
from jaxtyping import Array, Float


@dataclasses.dataclass(frozen=True)
class AdversarialLoss:
  """The two losses of a game, for each example; a logit is positive for data taken for real."""

  def discriminator(
    self, real: Float[Array, 'batch'], fake: Float[Array, 'batch']
  ) -> Float[Array, 'batch']:
    """The loss of the discriminator, from its logits of real and of generated data."""
    raise NotImplementedError

  def generator(self, fake: Float[Array, 'batch']) -> Float[Array, 'batch']:
    """The loss of the generator, from the logits of its data."""
    raise NotImplementedError


@dataclasses.dataclass(frozen=True)
class NonSaturating(AdversarialLoss):
  """Cross-entropy; the generator maximises log D, not −log(1 − D) (Goodfellow et al. 2014)."""

  def discriminator(
    self, real: Float[Array, 'batch'], fake: Float[Array, 'batch']
  ) -> Float[Array, 'batch']:
    # With D = sigmoid(logit): −log D(x) − log(1 − D(G(z))), where −log D is softplus(−logit).
    return jax.nn.softplus(-real) + jax.nn.softplus(fake)

  def generator(self, fake: Float[Array, 'batch']) -> Float[Array, 'batch']:
    return jax.nn.softplus(-fake)


@dataclasses.dataclass(frozen=True)
class Hinge(AdversarialLoss):
  """A margin of 1 on both sides of 0 (Lim & Ye 2017; Miyato et al. 2018, eq. 16 and 17)."""

  def discriminator(
    self, real: Float[Array, 'batch'], fake: Float[Array, 'batch']
  ) -> Float[Array, 'batch']:
    return jax.nn.relu(1 - real) + jax.nn.relu(1 + fake)

  def generator(self, fake: Float[Array, 'batch']) -> Float[Array, 'batch']:
    return -fake


LOSSES: Mapping[str, type[AdversarialLoss]] = {'non_saturating': NonSaturating, 'hinge': Hinge}
