"""The GAN as a method: both players in one loss. `build` makes it from a config."""

import dataclasses
import functools
from collections.abc import Mapping

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Key

from common.baselines.gan.losses import LOSSES, AdversarialLoss
from common.baselines.gan.players import Memory, Players, PowerIterations, build_players
from common.baselines.gan.sampling import RequestSampler
from common.config import ConfigError, component
from common.data.spec import DataSpec, to_unit
from common.devices.mesh import kept_split
from common.method import (
  Aux,
  Batch,
  Context,
  Likelihood,
  Method,
  Program,
  PyTree,
  Request,
  Samples,
  example_keys,
  example_weights,
)


@dataclasses.dataclass(frozen=True, eq=False)
class GAN(Method):
  """A generator and a discriminator, trained against each other (Goodfellow et al. 2014).

  Samples are one evaluation of the generator. A request without labels to a class-conditional
  generator gives random classes, all equally likely.

  Attributes:
    players: the networks.
    objective: what each of them minimises.
    r1: γ, the weight of the gradient penalty on real data; 0: off.
    sampling: answers requests for samples.
  """

  players: Players
  objective: AdversarialLoss
  r1: float
  sampling: RequestSampler

  has_likelihood = False

  @property
  def labelled(self) -> bool:
    return bool(self.players.num_classes)

  def init(self, key: Key[Array, ''], batch: Batch) -> tuple[PyTree, Memory]:
    return self.players.init(key, to_unit(batch['x'], self.players.levels))

  def loss(
    self, params: PyTree, memory: Memory, batch: Batch, key: Key[Array, ''], context: Context
  ) -> tuple[Float[Array, ''], Aux]:
    """The sum of both players' losses, whose gradient is for each player that of its own loss.

    The discriminator's loss holds the generator's output, and the generator's loss holds the
    discriminator's parameters. The value falls for neither player alone: it is no measure of
    quality.
    """
    players, hold = self.players, jax.lax.stop_gradient
    real = to_unit(batch['x'], players.levels)
    # Generated examples have the classes of the real ones, and so the classes' frequencies.
    label = batch['label'] if players.num_classes else None
    fake = players.generate(params, players.noise(example_keys(key, context.index)), label)
    fake = kept_split(fake)  # the channels of one network do not decide how the other is split
    spectral = isinstance(memory, PowerIterations)
    vectors = memory.start(context.step) if spectral else {}
    real_logit, slope, after = self._judge_real(params, vectors, label, real)
    fake_logit, _ = players.judge(params, vectors, label, hold(fake))
    # The same logits once more, as a function of the generator alone.
    held_logit, _ = players.judge(hold(params), vectors, label, fake)
    # Mescheder et al. 2018, eq. 9: γ/2 · E‖∇D(x)‖² on real data.
    penalty = 0.5 * self.r1 * slope
    terms = {
      'discriminator': self.objective.discriminator(real_logit, fake_logit),
      'generator': self.objective.generator(held_logit),
      'real_logit': real_logit,
      'fake_logit': fake_logit,
      'accuracy': 0.5 * ((real_logit > 0).astype(jnp.float32) + (fake_logit < 0)),
    } | ({'r1': penalty} if self.r1 else {})
    weight = example_weights(batch)
    count = weight.sum()
    # Padding has weight 0.
    metrics = {k: (v * weight).sum() / jnp.maximum(count, 1e-12) for k, v in terms.items()}
    value = metrics['discriminator'] + metrics['generator'] + metrics.get('r1', 0.0)
    if spectral:
      memory = PowerIterations(vectors, hold(after), context.step)
    return value, Aux(metrics, memory, count)

  def sample(self, params: PyTree, key: Key[Array, ''], request: Request) -> Samples:
    return self.sampling.sample(params, key, request)

  def check_request(self, params: PyTree | None, request: Request) -> None:
    self.sampling.check(params, request)

  def sampling_program(self, params: PyTree, request: Request) -> Program:
    return self.sampling.program(params, request)

  def nll(self, params: PyTree, batch: Batch, key: Key[Array, '']) -> Likelihood:
    """There is none: raises ConfigError."""
    raise ConfigError(
      'a GAN has no likelihood: its generator draws samples, but gives no probability of given '
      'data; measure the Fréchet distance instead'
    )

  def _judge_real(
    self,
    params: PyTree,
    vectors: PyTree,
    label: Int[Array, 'batch'] | None,
    x: Float[Array, 'batch *shape'],
  ) -> tuple[Float[Array, 'batch'], Float[Array, 'batch'], PyTree]:
    """(logits, ‖∇D(x)‖² of each example, vectors); the norm is 0 without the penalty."""
    if not self.r1:
      logits, after = self.players.judge(params, vectors, label, x)
      return logits, jnp.zeros_like(logits), after
    # No example affects another's logit: the gradient of the sum has the gradient of each.
    total = functools.partial(_total_logit, self.players, params, vectors, label)
    slope, (logits, after) = jax.grad(total, has_aux=True)(x)
    return logits, (slope**2).sum(axis=range(1, x.ndim)), after


def _total_logit(players, params, vectors, label, x):
  logits, after = players.judge(params, vectors, label, x)
  return logits.sum(), (logits, after)


def build(config: Mapping, spec: DataSpec) -> GAN:
  """A GAN, from a config like that of `configs/gan/base.py`.

  Raises:
    ConfigError: for unknown names or settings, and networks that do not suit the data.
  """
  players = build_players(config, spec)
  return GAN(
    players=players,
    objective=component(LOSSES, config['objective']['loss'], 'objective.loss'),
    r1=config['objective']['r1'],
    sampling=RequestSampler(players, config['sampling']),
  )
