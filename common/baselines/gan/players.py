"""The two networks of a GAN with their parameters, and the memory of spectral norm."""

import dataclasses
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Key

from common.baselines.gan.discriminators import DISCRIMINATORS, Discriminator
from common.baselines.gan.generators import GENERATORS, Generator
from common.baselines.gan.layers import SPECTRAL
from common.config import ConfigError, component
from common.data.spec import DataSpec, from_unit
from common.method import PyTree


class PowerIterations(NamedTuple):
  """The vectors of spectral norm, which move by one iteration in every step.

  Every call of the discriminator iterates once from the vectors that it is given. All calls within
  a step start from the same ones, so all micro-batches have the same singular values, and the
  result does not depend on their number.

  Attributes:
    before: the vectors from which step `step` started.
    after: those that it left.
    step: the last step; -1 before the first one.
  """

  before: PyTree
  after: PyTree
  step: Int[Array, '']

  def start(self, step: Int[Array, '']) -> PyTree:
    """The vectors from which all calls of a step start."""
    again = self.step == step
    return jax.tree.map(lambda old, new: jnp.where(again, old, new), self.before, self.after)


# Without spectral norm, nothing is remembered. `pmap` trains only methods without memory.
Memory = PowerIterations | tuple[()]


@dataclasses.dataclass(frozen=True, eq=False)  # hashed by identity: a key of compiled programs
class Players:
  """A generator and a discriminator.

  Attributes:
    generator, discriminator: the networks.
    num_classes: number of classes that both are told, or 0.
    levels: number of values of each dimension of the data; 0: numbers.
  """

  generator: Generator
  discriminator: Discriminator
  num_classes: int
  levels: int

  def init(self, key: Key[Array, ''], x: Float[Array, 'batch *shape']) -> tuple[PyTree, Memory]:
    """(parameters of both, memory); only the shape of x matters."""
    first, second = jax.random.split(key)
    label = jnp.zeros(1, jnp.int32) if self.num_classes else None
    z = jnp.zeros((1, self.generator.latent))
    generator = self.generator.init(first, z, label)
    discriminator = self.discriminator.init(second, jnp.zeros_like(x[:1]), label)
    params = {'generator': generator['params'], 'discriminator': discriminator['params']}
    if SPECTRAL not in discriminator:
      return params, ()
    vectors = discriminator[SPECTRAL]
    zeros = jax.tree.map(jnp.zeros_like, vectors)
    return params, PowerIterations(zeros, vectors, jnp.full((), -1, jnp.int32))

  def noise(
    self, keys: Key[Array, 'batch'], truncation: Float[Array, ''] | None = None
  ) -> Float[Array, 'batch latent']:
    """Standard normal noise, one key per example; truncated to ±`truncation` unless None."""
    shape = (self.generator.latent,)
    if truncation is None:
      return jax.vmap(lambda key: jax.random.normal(key, shape))(keys)
    # Values beyond the threshold are drawn again (Brock et al. 2019, section 3.1).
    draw = lambda key: jax.random.truncated_normal(key, -truncation, truncation, shape)
    return jax.vmap(draw)(keys)

  def generate(
    self,
    params: Mapping[str, PyTree],
    z: Float[Array, 'batch latent'],
    label: Int[Array, 'batch'] | None,
  ) -> Float[Array, 'batch *shape']:
    """Data on the scale on which the networks work: images in [-1, 1], numbers as they are."""
    return self.generator.apply({'params': params['generator']}, z, label)

  def judge(
    self,
    params: Mapping[str, PyTree],
    vectors: PyTree,
    label: Int[Array, 'batch'] | None,
    x: Float[Array, 'batch *shape'],
  ) -> tuple[Float[Array, 'batch'], PyTree]:
    """(logits, vectors after one power iteration); vectors are {} without spectral norm."""
    variables = {'params': params['discriminator'], SPECTRAL: vectors}
    logits, after = self.discriminator.apply(variables, x, label, mutable=[SPECTRAL])
    return logits, after.get(SPECTRAL, {})

  def as_data(self, x: Float[Array, 'batch *shape']) -> Array:
    """What `generate` returned, as values of the data."""
    return from_unit(x, self.levels)


def build_players(config: Mapping[str, Any], spec: DataSpec) -> Players:
  """The networks of a config (see `configs/gan/base.py`).

  Raises:
    ConfigError: for unknown names or settings, and networks that do not suit the data.
  """
  if len(spec.shape) != 3:
    raise ConfigError(
      f"family 'gan' generates images [height, width, channels], but {spec.name!r} has shape "
      f"{list(spec.shape)}: use family 'diffusion' or 'autoregressive'"
    )
  if spec.indices:
    raise ConfigError(
      'a generator outputs ordered values, but with a palette, or over the codes of a VQ-VAE, they '
      'are indices: set data.palette=0, or use a first stage whose latents are numbers'
    )
  num_classes = spec.num_classes if config['conditional'] else 0
  given = dict(num_classes=num_classes, dtype=config['precision'])
  players = Players(
    component(
      GENERATORS,
      config['generator'],
      'generator',
      shape=tuple(spec.shape),
      bounded=spec.levels > 0,
      **given,
    ),
    component(DISCRIMINATORS, config['discriminator'], 'discriminator', **given),
    num_classes,
    spec.levels,
  )
  # Sizes that do not divide are refused here, before any other work.
  jax.eval_shape(players.init, jax.random.key(0), jnp.zeros((1, *spec.shape)))
  return players
