"""The diffusion method: its loss, samples and likelihood. `build` makes it from a config."""

import dataclasses
import functools
import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Key

from common import flops
from common.config import ConfigError, component
from common.data.spec import DataSpec, to_unit
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
from diffusion.augmentation import augment
from diffusion.classifier import Classifier
from diffusion.likelihood import LIKELIHOODS
from diffusion.likelihood.bound import Estimator
from diffusion.likelihood.terms import endpoint_nats, step_nats
from diffusion.model import Model, build_model
from diffusion.objectives.objective import Objective, build_objective
from diffusion.objectives.times import TimeSample, uniforms
from diffusion.objectives.uncertainty import uncertainty, uncertainty_init
from diffusion.objectives.weightings import target_weight
from diffusion.predictions import Pair, add_noise, combine, expand, target_pair
from diffusion.sampling.requests import RequestSampler

# Uses of a step's key, apart from the examples' own keys.
NETWORK_DROPOUT, CLASSIFIER_DROPOUT = 1, 2
# Data that are numbers cost as much in the bound's last step as if they had this many levels in
# [-1, 1] (Peebles & Xie 2022, code).
NUMBER_LEVELS = 256


class NoisyBatch(NamedTuple):
  """A batch with noise, x = α(t)·x0 + σ(t)·eps, and the conditions that the network is given."""

  x0: Float[Array, 'batch *shape']
  eps: Float[Array, 'batch *shape']
  x: Float[Array, 'batch *shape']
  times: TimeSample
  label: Int[Array, 'batch'] | None
  augment: Float[Array, 'batch numbers'] | None
  given: Float[Array, 'batch *more'] | None
  counted: Float[Array, 'batch *shape'] | None


class ExampleLosses(NamedTuple):
  """The loss of each example, per dimension.

  Attributes:
    loss: the value that training minimises.
    mse: the unweighted squared error of the network's target.
    noisy: the examples.
  """

  loss: Float[Array, 'batch']
  mse: Float[Array, 'batch']
  noisy: NoisyBatch


class LossInputs(NamedTuple):
  """Everything that the loss depends on, besides the parameters."""

  memory: PyTree
  batch: Batch
  key: Key[Array, '']
  context: Context

  def dropout_key(self, use: int) -> Key[Array, '']:
    """The key of a dropout mask, which is drawn for a whole array at once, not for each example.

    The index of the first example distinguishes the parts of a split batch.
    """
    return jax.random.fold_in(jax.random.fold_in(self.key, use), self.context.index[0])


@dataclasses.dataclass(frozen=True, eq=False)
class Diffusion(Method):
  """A score-based diffusion model.

  Attributes:
    model: the process, the network and what it predicts.
    objective: the parts of the loss.
    estimator: estimates the likelihood.
    sampling: answers requests for samples.
    spec: describes the data.
  """

  model: Model
  objective: Objective
  estimator: Estimator
  sampling: RequestSampler
  spec: DataSpec

  # Of both estimators: of the whole bound, or of the dequantised data under the flow.
  likelihood_note = 'upper bound'

  @property
  def labelled(self) -> bool:
    return bool(self.model.num_classes) or self.model.classifier is not None

  @property
  def has_likelihood(self) -> bool:
    # The bound and the flow measure the probability of whole numbers.
    return self.objective.times.covers_all_times and self.spec.levels > 0

  def inputs(
    self, batch: Batch
  ) -> tuple[
    Float[Array, 'batch *shape'],
    Float[Array, 'batch *more'] | None,
    Float[Array, 'batch *shape'] | None,
  ]:
    """The clean data; what else the network is given; and the weight of each dimension, or None."""
    return to_unit(batch['x'], self.spec.levels), None, None

  def init(self, key: Key[Array, ''], batch: Batch) -> tuple[PyTree, PyTree]:
    params = self.model.init(key, *self.inputs(batch)[:2])
    if self.objective.uncertainty:
      params['uncertainty'] = uncertainty_init()
    return params, self.objective.times.init(self.model.process)

  def loss(
    self, params: PyTree, memory: PyTree, batch: Batch, key: Key[Array, ''], context: Context
  ) -> tuple[Array, Aux]:
    inputs = LossInputs(memory, batch, key, context)
    # A learned process needs the bound's terms at its ends, and a second pass for its shape.
    losses = self._learned_process_losses if self.model.process.learned else self._losses
    per_example, mse, noisy = losses(params, inputs)
    weight = example_weights(batch)
    # The memory takes the losses before they are corrected for the times' distribution (Nichol &
    # Dhariwal 2021, eq. 18). Padding has weight 0, in the memory as in the means.
    memory = self.objective.times.update(
      memory, self.model.process, noisy.times, per_example, weight
    )
    value = weighted_mean(per_example * noisy.times.importance, weight)
    metrics = {'mse': weighted_mean(mse, weight)}
    if self.model.classifier is not None:
      entropy = self._classifier_entropy(params, noisy, inputs)
      metrics['classifier'] = weighted_mean(entropy, weight)
      value = value + self.objective.classifier * metrics['classifier']
    return value, Aux(metrics, memory, weight.sum())

  def sample(self, params: PyTree, key: Key[Array, ''], request: Request) -> Samples:
    return self.sampling.sample(params, key, request)

  def check_request(self, params: PyTree | None, request: Request) -> None:
    self.sampling.check(params, request)

  def sampling_program(self, params: PyTree, request: Request) -> Program:
    return self.sampling.program(params, request)

  def evaluation_flops(self, params: PyTree, request: Request) -> int:
    # Of the network alone: how often a sampler calls it depends on its solver.
    x, t = jnp.zeros((1, *self.spec.shape)), jnp.ones(1)
    label = jnp.zeros(1, jnp.int32) if self.model.num_classes else None
    predict = functools.partial(self.model.predict, params, given=None)
    return flops.count(flops.trace(predict, x, t, label))

  def nll(self, params: PyTree, batch: Batch, key: Key[Array, '']) -> Likelihood:
    x0 = to_unit(batch['x'], self.spec.levels)
    # Evaluation hides no label and augments no image: the likelihood is that of the data itself.
    label = batch['label'] if self.model.num_classes else None
    return self.estimator.estimate(
      self.model.process_at(params),
      functools.partial(self.model.estimate, params, label=label),
      x0,
      self.spec.levels,
      example_keys(key, jnp.arange(x0.shape[0])),
      self.model.variance,
    )

  def _diffuse(self, params: PyTree, inputs: LossInputs) -> NoisyBatch:
    """Draws times, noise and hidden classes, for each example from its own keys."""
    batch, context = inputs.batch, inputs.context
    process, objective = self.model.process_at(params), self.objective
    x0, given, counted = self.inputs(batch)
    # [4, batch] keys: times, noise, hidden classes, augmentation. Always four, so that switching
    # one of them off does not change the other draws.
    time_keys, noise_keys, label_keys, augment_keys = jax.vmap(_split_in_four, out_axes=1)(
      example_keys(inputs.key, context.index)
    )
    augment_label = None
    if objective.augmentation['probability'] and context.training:
      x0, augment_label = augment(augment_keys, x0, objective.augmentation)
    u = uniforms(
      time_keys, inputs.key, context.index, context.batch_size, objective.times.stratified
    )
    times = objective.times.sample(process, u, inputs.memory)
    x, eps = add_noise(process, x0, times.t, noise_keys)
    label = batch['label'] if self.model.num_classes else None
    if label is not None and context.training:
      # The unconditional branch of classifier-free guidance (Ho & Salimans 2022, algorithm 1).
      hidden = jax.vmap(jax.random.uniform)(label_keys) < objective.label_dropout
      label = jnp.where(hidden, self.model.num_classes, label)
    return NoisyBatch(x0, eps, x, times, label, augment_label, given, counted)

  def _losses(self, params: PyTree, inputs: LossInputs) -> ExampleLosses:
    """The loss of each example: draws its noise, and compares the network with its target."""
    model, objective = self.model, self.objective
    noisy = self._diffuse(params, inputs)
    process, t = model.process_at(params), noisy.times.t
    y, estimate = model.predict(
      params,
      noisy.x,
      t,
      noisy.label,
      noisy.given,
      train=inputs.context.training,
      key=inputs.dropout_key(NETWORK_DROPOUT),
      augment=noisy.augment,
    )
    # y* = a·x0 + b·eps, and the mean of ‖y − y*‖² over the dimensions.
    pair = target_pair(model.target, process, t, model.sigma_data)
    target = combine(jax.tree.map(lambda c: expand(c, y), pair), noisy.x0, noisy.eps)
    mse = _mean_of_dimensions((y - target) ** 2, noisy.counted)
    if objective.weighting is None:
      return ExampleLosses(self._step_cost(params, noisy, estimate), mse, noisy)
    # W·‖x0 − x̂0‖² in terms of the target: the factor of the target's error is W·(σ/Δ)².
    value = target_weight(objective.weighting, process, pair, t, noisy.times.density) * mse
    if objective.hybrid:
      # Only the variance learns from the bound: no gradient flows to the mean, through x0 (Nichol
      # & Dhariwal 2021, section 3.1, L_hybrid).
      fixed = estimate._replace(x0=jax.lax.stop_gradient(estimate.x0))
      value = value + objective.hybrid * self._step_cost(params, noisy, fixed)
    if objective.uncertainty:
      u = uncertainty(params['uncertainty'], process.log_snr(t))
      value = value * jnp.exp(-u) + u  # Karras et al. 2024 (EDM2), eq. 21
    return ExampleLosses(value, mse, noisy)

  def _step_cost(self, params: PyTree, noisy: NoisyBatch, estimate: Pair) -> Float[Array, 'batch']:
    """An unbiased estimate of the bound's sum over steps, in nats per dimension.

    One step of the T, drawn uniformly, times T (Nichol & Dhariwal 2021, section 3.3).
    """
    process, levels = self.model.process_at(params), self.spec.levels or NUMBER_LEVELS
    nats = step_nats(
      process, estimate, noisy.x, noisy.x0, noisy.times.t, levels, self.model.variance
    )
    return process.steps * nats / math.prod(self.spec.shape)

  def _learned_process_losses(self, params: PyTree, inputs: LossInputs) -> ExampleLosses:
    """The bound as the loss of a learned process (Kingma et al. 2021, appendix I).

    The network and the ends are trained by the whole bound, which does not depend on the shape in
    between; the shape is trained by the variance of the bound's estimate, through the gradient of
    its square. The second part adds a gradient and no value.
    """
    hold = jax.lax.stop_gradient
    ends, shape = params['process']['ends'], params['process']['shape']
    # Twice the same draws (one key), differentiated with respect to different parameters.
    loss, mse, noisy = self._losses(
      params | {'process': {'ends': ends, 'shape': hold(shape)}}, inputs
    )
    # E[loss²] = Var + bound², and the bound does not depend on the shape: the gradient of the
    # square is the gradient of the variance.
    held = hold(params) | {'process': {'ends': hold(ends), 'shape': shape}}
    square = self._losses(held, inputs).loss ** 2
    # The prior and reconstruction terms, which move with the ends.
    ends_cost = endpoint_nats(self.model.process_at(params), noisy.x0, noisy.eps, self.spec.levels)
    loss = loss + ends_cost / math.prod(self.spec.shape) + square - hold(square)
    return ExampleLosses(loss, mse, noisy)

  def _classifier_entropy(
    self, params: PyTree, noisy: NoisyBatch, inputs: LossInputs
  ) -> Float[Array, 'batch']:
    """Cross-entropy of the classifier on the same noisy examples, with their true labels."""
    log_probs = self.model.class_log_probs(
      params,
      noisy.x,
      noisy.times.t,
      train=inputs.context.training,
      key=inputs.dropout_key(CLASSIFIER_DROPOUT),
    )
    return -jnp.take_along_axis(log_probs, inputs.batch['label'][:, None], axis=1)[:, 0]


def _mean_of_dimensions(
  square: Float[Array, 'batch *shape'], counted: Float[Array, 'batch *shape'] | None
) -> Float[Array, 'batch']:
  """The mean over the dimensions of each example, or over those that count; 0 if none does."""
  axes = tuple(range(1, square.ndim))
  if counted is None:
    return jnp.mean(square, axes)
  return (counted * square).sum(axes) / jnp.maximum(counted.sum(axes), 1)


def weighted_mean(value: Float[Array, 'batch'], weight: Float[Array, 'batch']) -> Float[Array, '']:
  """The weighted mean over examples; 0 if every weight is 0."""
  return jnp.sum(value * weight) / jnp.maximum(weight.sum(), 1e-12)


def _split_in_four(key: Key[Array, '']) -> Key[Array, '4']:
  return jax.random.split(key, 4)


def build(config: Mapping, spec: DataSpec, classifier: Classifier | None = None) -> Diffusion:
  """A diffusion model, from a config like that of `configs/diffusion/base.py`.

  Args:
    config: a complete config.
    spec: describes the data.
    classifier: guides samples in place of a classifier of the model's own, with
      `params['classifier']`; or None.

  Raises:
    ConfigError: for unknown names or settings, and parts that do not go together.
  """
  return Diffusion(**parts(config, spec, classifier))


def parts(config: Mapping, spec: DataSpec, classifier: Classifier | None = None) -> dict[str, Any]:
  """The attributes of `Diffusion` for a config and data; raises ConfigError as `build` does."""
  model = build_model(config, spec)
  if model.process.learned and not spec.levels:
    raise ConfigError(
      f"process 'learned' is trained by the likelihood of whole numbers, but {spec.name!r} holds"
      ' real numbers: choose another process'
    )
  objective = build_objective(config, model)
  if classifier is not None:
    model = dataclasses.replace(model, classifier=classifier)
  return dict(
    model=model,
    objective=objective,
    estimator=component(LIKELIHOODS, config['likelihood'], 'likelihood'),
    sampling=RequestSampler(model, spec, config['sampling'], objective.label_dropout),
    spec=spec,
  )
