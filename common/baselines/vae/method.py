"""Variational autoencoders as a method: loss, samples and the importance-weighted bound."""

import dataclasses
import math
from collections.abc import Mapping
from typing import Annotated

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Key

from common.baselines.vae.latents import Encoded
from common.baselines.vae.model import Model, build_model
from common.baselines.vae.sampling import RequestSampler
from common.config import ConfigError, component
from common.data.spec import DataSpec
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
from common.ranges import AT_LEAST_ZERO, Interval
from common.training.schedule import parse_steps, total_steps


@dataclasses.dataclass(frozen=True)
class Objective:
  """The loss: reconstruction, and the divergence of the posterior from the prior.

  Attributes:
    beta: weight of the divergence (Higgins et al. 2017); 1: the evidence lower bound.
    free_bits: nats of each latent channel of an example below which the divergence does not count.
      Kingma et al. 2016 compare the mean over a batch instead.
    warmup: length over which the weight rises linearly from 0 (Bowman et al. 2016).
  """

  beta: Annotated[float, AT_LEAST_ZERO] = 1.0
  free_bits: Annotated[float, AT_LEAST_ZERO] = 0.0
  warmup: str = '0'


@dataclasses.dataclass(frozen=True)
class ImportanceBound:
  """The importance-weighted bound (Burda et al. 2016, equation 8).

  Attributes:
    samples: number of latents drawn for each example; all are decoded at once.
  """

  samples: Annotated[int, Interval(2, 10_000)] = 16


LIKELIHOODS = {'importance': ImportanceBound}


@dataclasses.dataclass(frozen=True, eq=False)
class VAE(Method):
  """A variational autoencoder, or a VQ-VAE (`latents.Codes`).

  Attributes:
    model: encoder, decoder and distributions.
    objective: the loss.
    warmup_steps: `objective.warmup` in steps.
    likelihood: estimates the likelihood.
    sampling: answers requests for samples.
  """

  model: Model
  objective: Objective
  warmup_steps: int
  likelihood: ImportanceBound
  sampling: RequestSampler
  reconstructs = True

  @property
  def labelled(self) -> bool:
    return bool(self.model.num_classes)

  @property
  def has_likelihood(self) -> bool:
    # Of whole numbers alone: densities of numbers are not comparable with probabilities.
    return self.model.spec.levels > 0

  @property
  def likelihood_note(self) -> str:
    if self.model.latents.exact:
      return 'upper bound by the one posterior code'
    return f'upper bound of {self.likelihood.samples} importance samples'

  def init(self, key: Key[Array, ''], batch: Batch) -> tuple[PyTree, PyTree]:
    return self.model.init(key, batch['x']), ()

  def _label(self, batch: Batch) -> Int[Array, 'batch'] | None:
    """The classes of a batch; None if the networks know none."""
    return batch['label'] if self.model.num_classes else None

  def loss(
    self, params: PyTree, memory: PyTree, batch: Batch, key: Key[Array, ''], context: Context
  ) -> tuple[Float[Array, ''], Aux]:
    model, label, keys = self.model, self._label(batch), example_keys(key, context.index)
    features = model.features(params, batch['x'], label)
    found = model.latents.encode(params, features, keys)
    outputs = model.outputs(params, found.z, label)
    reconstruction = -model.log_prob(params, outputs, batch['x'])
    # Free bits (Kingma et al. 2016): a channel below the threshold has no gradient.
    counted = jnp.maximum(found.kl, self.objective.free_bits).sum(-1)
    weight = example_weights(batch)
    loss = (reconstruction + self._beta(context) * counted) / model.spec.num_dims + found.extra
    metrics = self._metrics(reconstruction, found) | found.metrics
    total = jnp.maximum(weight.sum(), 1e-12)
    metrics = {k: (v * weight).sum() / total if v.ndim else v for k, v in metrics.items()}
    return (loss * weight).sum() / total, Aux(metrics, memory, weight.sum())

  def _metrics(
    self, reconstruction: Float[Array, 'batch'], found: Encoded
  ) -> dict[str, Float[Array, 'batch']]:
    """The bound and its two terms, in bits per dimension."""
    unit = self.model.spec.num_dims * math.log(2.0)
    rate = found.kl.sum(-1)
    return {
      'bits_per_dim': (reconstruction + rate) / unit,
      'distortion': reconstruction / unit,
      'rate': rate / unit,
    }

  def _beta(self, context: Context) -> Float[Array, ''] | float:
    """The weight of the divergence; evaluation has no warm-up, so that its losses compare."""
    if not (self.warmup_steps and context.training):
      return self.objective.beta
    return self.objective.beta * jnp.minimum(context.step / self.warmup_steps, 1.0)

  def nll(self, params: PyTree, batch: Batch, key: Key[Array, '']) -> Likelihood:
    model, x, label = self.model, batch['x'], self._label(batch)
    num, samples = len(x), 1 if model.latents.exact else self.likelihood.samples
    features = model.features(params, x, label)
    # All samples at once, [samples · batch]: convolutions in a loop are slow on CPUs.
    keys = jax.vmap(example_keys, (0, None))(jax.random.split(key, samples), jnp.arange(num))
    features, x = jnp.tile(features, (samples, 1, 1, 1)), jnp.tile(x, (samples, 1, 1, 1))
    label = None if label is None else jnp.tile(label, samples)
    z = model.latents.encode(params, features, keys.reshape(-1)).z
    log_weights = model.log_prob(params, model.outputs(params, z, label), x)
    log_weights += model.latents.log_ratio(params, features, z)
    return importance_bound(log_weights.reshape(samples, num))

  def sample(self, params: PyTree, key: Key[Array, ''], request: Request) -> Samples:
    return self.sampling.sample(params, key, request)

  def check_request(self, params: PyTree | None, request: Request) -> None:
    self.sampling.check(params, request)

  def sampling_program(self, params: PyTree, request: Request) -> Program:
    return self.sampling.program(params, jax.random.key(0), request)


def importance_bound(log_weights: Float[Array, 'samples batch']) -> Likelihood:
  """-log of the mean weight of each example (Burda et al. 2016, equation 8).

  Args:
    log_weights: log p(x|z) + log p(z) - log q(z|x) of latents z drawn from q(z|x).

  Returns:
    The bound, and its standard error by the delta method: that of the mean weight, relative to it.
    It is 0 for a single sample, which is exact for a posterior of one point.
  """
  samples, num = log_weights.shape
  total = jax.nn.logsumexp(log_weights, axis=0)
  nats = math.log(samples) - total
  if samples == 1:
    return Likelihood(nats, jnp.zeros(num, jnp.float32))
  shares = jnp.exp(log_weights - total)
  # With shares w_i / Σw: the variance of the weights over their squared mean.
  variance = jnp.maximum(samples * (shares**2).sum(axis=0) - 1, 0) * samples / (samples - 1)
  return Likelihood(nats, jnp.sqrt(variance / samples))


def build(config: Mapping, spec: DataSpec) -> VAE:
  """A variational autoencoder, from a config like that of `configs/vae/base.py`.

  Raises:
    ConfigError: for unknown names or settings, and data that are not images.
  """
  model, objective = build_model(config, spec), Objective(**config['objective'])
  if model.latents.exact and objective != Objective():
    raise ConfigError(
      'objective.beta, free_bits and warmup have no effect on codes, whose divergence from the '
      'prior is constant: leave them at their defaults'
    )
  return VAE(
    model=model,
    objective=objective,
    warmup_steps=_warmup_steps(objective, config, spec),
    likelihood=component(LIKELIHOODS, config['likelihood'], 'likelihood'),
    sampling=RequestSampler(model, config['sampling']),
  )


def _warmup_steps(objective: Objective, config: Mapping, spec: DataSpec) -> int:
  batch_size = config['data']['batch_size']
  epoch = max(spec.num_train // batch_size, 1)
  total = total_steps(config, spec.num_train)
  return parse_steps(objective.warmup, 'objective.warmup', epoch, total, batch_size)
