"""`build`: a config and a description of the data as a `Method`."""

import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Key

from common.config import ConfigError, component
from common.data.spec import DataSpec, to_unit
from common.method import (
  Aux,
  Batch,
  Context,
  Functions,
  Likelihood,
  Method,
  PyTree,
  example_keys,
  example_weights,
)
from diffusion import objectives
from diffusion.augmentation import augment
from diffusion.likelihood import LIKELIHOODS
from diffusion.likelihood.bound import ends_nats, step_nats
from diffusion.model import Model, build_model
from diffusion.objectives import TIMES, WEIGHTINGS, Draw, Times, Weighting
from diffusion.predictions import Pair, combine, expand, normal_like, target_pair
from diffusion.sampling.requests import make_sampler


class Objective(NamedTuple):
  """The parts of a loss.

  Attributes:
    times: which times are trained on.
    weighting: how much each counts; None for the exact steps of a discrete process's bound.
    hybrid: weight of those steps beside the weighting, which trains a learned variance.
    uncertainty: whether the loss is balanced by a learned uncertainty.
    label_dropout: how often training hides the class.
    augmentation: see `diffusion.augmentation`.
    classifier: weight of the cross-entropy of the classifier beside the model, or 0.
  """

  times: Times
  weighting: Weighting | None
  hybrid: float
  uncertainty: bool
  label_dropout: float
  augmentation: Mapping[str, Any]
  classifier: float


def build_objective(config: Mapping, model: Model) -> Objective:
  """The objective of a config. Raises ConfigError where its parts do not go together."""
  section = config['objective']
  times = component(TIMES, section['times'], 'objective.times')
  weighting = component(WEIGHTINGS, section['weighting'], 'objective.weighting')
  name, drawn = section['weighting']['name'], section['times']['name']
  exact = name == 'vlb' and model.process.steps > 0
  if exact and drawn in ('log_normal', 'logit_normal', 'terminal'):
    raise ConfigError(f"objective.weighting 'vlb' of a discrete process: not with times {drawn!r}")
  if name in ('vlb', 'likelihood') and drawn == 'terminal':
    raise ConfigError(f"objective.weighting {name!r} has no meaning with times 'terminal'")
  dropout = config['label_dropout']
  if not 0 <= dropout < 1:
    raise ConfigError(f'label_dropout={dropout} must be in [0, 1)')
  learned = model.process.bind is not None
  if learned and (name != 'vlb' or section['uncertainty']):
    raise ConfigError(
      f"process 'learned' is trained by its bound: objective.weighting 'vlb', not {name!r}, and"
      ' without uncertainty'
    )
  bounded = exact or learned or model.variance == 'learned'
  if bounded and config['augmentation']['probability']:
    raise ConfigError('augmentation: not where the bound of discrete data is trained on, as here')
  hybrid = section['hybrid'] if model.variance == 'learned' and not exact else 0.0
  return Objective(
    times=times,
    weighting=None if exact else weighting,
    hybrid=hybrid,
    uncertainty=section['uncertainty'],
    label_dropout=dropout,
    augmentation=config['augmentation'],
    classifier=config['classifier']['weight'] if model.classifier else 0.0,
  )


def build(config: Mapping, spec: DataSpec) -> Method:
  """A diffusion model, by a config like `configs/diffusion/base.py`'s.

  Raises:
    ConfigError: for unknown names or settings, and parts that do not go together.
  """
  if not spec.levels:
    raise ConfigError(f'diffusion is of whole numbers here; {spec.name!r} holds others')
  model = build_model(config, spec)
  objective = build_objective(config, model)
  estimator = component(LIKELIHOODS, config['likelihood'], 'likelihood')

  def init(key: Key[Array, ''], batch: Batch) -> tuple[PyTree, PyTree]:
    params = model.init(key, to_unit(batch['x'], spec.levels))
    if objective.uncertainty:
      params['uncertainty'] = objectives.uncertainty_init()
    return params, objective.times.init(model.process)

  def loss(
    params: PyTree, memory: PyTree, batch: Batch, key: Key[Array, ''], context: Context
  ) -> tuple[Array, Aux]:
    weight = example_weights(batch)
    count = weight.sum()
    mean = lambda v: jnp.sum(v * weight) / jnp.maximum(count, 1e-12)

    def losses(params):
      noisy = _diffuse(model, objective, spec, params, memory, batch, key, context)
      return *_losses(model, objective, spec, params, noisy, key, context), noisy

    if model.process.bind is None:
      per_example, mse, noisy = losses(params)
    else:
      per_example, mse, noisy = _with_learned_process(model, spec, losses, params)
    new = objective.times.update(memory, model.process, noisy.draw, per_example, weight)
    value, metrics = mean(per_example * noisy.draw.correction), {'mse': mean(mse)}
    if model.classifier is not None:
      dropout = _dropout_key(key, context, 2)
      log_probs = model.class_log_probs(
        params, noisy.x, noisy.draw.t, train=context.training, key=dropout
      )
      entropy = -jnp.take_along_axis(log_probs, batch['label'][:, None], axis=1)[:, 0]
      metrics['classifier'] = mean(entropy)
      value = value + objective.classifier * metrics['classifier']
    return value, Aux(metrics, new, count)

  def nll(params: PyTree, batch: Batch, key: Key[Array, '']) -> Likelihood:
    x0 = to_unit(batch['x'], spec.levels)
    label = batch['label'] if model.num_classes else None
    denoise = model.denoiser(params)
    keys = example_keys(key, jnp.arange(x0.shape[0]))
    return estimator(
      model.process_at(params),
      lambda x, t: denoise(x, t, label),
      x0,
      spec.levels,
      keys,
      model.variance,
    )

  # Trained at one time alone, a network is a regression: the bound would ask it about the others.
  bounded = config['objective']['times']['name'] != 'terminal'
  return Functions(
    init,
    loss,
    make_sampler(model, config, spec),
    nll if bounded else None,
    labelled=bool(model.num_classes) or model.classifier is not None,
  )


class Noisy(NamedTuple):
  """A batch with noise, x = α(t)·x0 + σ(t)·eps, and what else the network is told."""

  x0: Float[Array, 'batch *shape']
  eps: Float[Array, 'batch *shape']
  x: Float[Array, 'batch *shape']
  draw: Draw
  label: Int[Array, 'batch'] | None
  augment: Float[Array, 'batch numbers'] | None


def _diffuse(
  model: Model,
  objective: Objective,
  spec: DataSpec,
  params: PyTree,
  memory: PyTree,
  batch: Batch,
  key: Key[Array, ''],
  context: Context,
) -> Noisy:
  """Draws time, noise and hidden classes; each example's by its own key."""
  process = model.process_at(params)
  x0 = to_unit(batch['x'], spec.levels)
  keys = jax.vmap(lambda k: jax.random.split(k, 4), out_axes=1)(example_keys(key, context.index))
  told, times = None, objective.times
  if objective.augmentation['probability'] and context.training:
    x0, told = augment(keys[3], x0, objective.augmentation)
  u = objectives.uniforms(keys[0], key, context.index, context.batch_size, times.stratified)
  draw = times.draw(process, u, memory)
  eps = normal_like(keys[1], x0)
  x = expand(process.alpha(draw.t), x0) * x0 + expand(process.sigma(draw.t), x0) * eps
  label = batch['label'] if model.num_classes else None
  if label is not None and context.training:
    hidden = jax.vmap(jax.random.uniform)(keys[2]) < objective.label_dropout
    label = jnp.where(hidden, model.num_classes, label)
  return Noisy(x0, eps, x, draw, label, told)


def _losses(
  model: Model,
  objective: Objective,
  spec: DataSpec,
  params: PyTree,
  noisy: Noisy,
  key: Key[Array, ''],
  context: Context,
) -> tuple[Float[Array, 'batch'], Float[Array, 'batch']]:
  """Loss and unweighted squared error of the target, per example and dimension."""
  process, t = model.process_at(params), noisy.draw.t
  y, estimate = model.predict(
    params,
    noisy.x,
    t,
    noisy.label,
    train=context.training,
    key=_dropout_key(key, context, 1),
    augment=noisy.augment,
  )
  pair = target_pair(model.target, process, t, model.sigma_data)
  target = combine(jax.tree.map(lambda c: expand(c, y), pair), noisy.x0, noisy.eps)
  mse = jnp.mean((y - target) ** 2, axis=range(1, y.ndim))
  if objective.weighting is None:
    return _step_cost(model, spec, process, noisy, estimate), mse
  weight = objectives.target_weight(objective.weighting, process, pair, t, noisy.draw.density)
  value = weight * mse
  if objective.hybrid:  # only the variance learns from it: Nichol & Dhariwal 2021, section 3.1
    fixed = estimate._replace(x0=jax.lax.stop_gradient(estimate.x0))
    value = value + objective.hybrid * _step_cost(model, spec, process, noisy, fixed)
  if objective.uncertainty:
    u = objectives.uncertainty(params['uncertainty'], process.log_snr(t))
    value = value * jnp.exp(-u) + u
  return value, mse


def _dropout_key(key: Key[Array, ''], context: Context, use: int) -> Key[Array, '']:
  """Dropout's mask is drawn for all of x at once: its first example's index tells parts apart."""
  return jax.random.fold_in(jax.random.fold_in(key, use), context.index[0])


def _step_cost(model: Model, spec: DataSpec, process, noisy: Noisy, estimate: Pair) -> Array:
  """An unbiased draw of the bound's sum over steps, in nats per dimension."""
  nats = step_nats(process, estimate, noisy.x, noisy.x0, noisy.draw.t, spec.levels, model.variance)
  return process.steps * nats / math.prod(spec.shape)


def _with_learned_process(
  model: Model, spec: DataSpec, losses: Callable[[PyTree], tuple], params: PyTree
) -> tuple[Array, Array, Noisy]:
  """The bound as the loss of a learned process (Kingma et al. 2021, appendix I).

  Network and ends are trained by the whole bound, which does not depend on the shape in between;
  the shape by the variance of the bound's estimate, the gradient of its square. The second part
  adds a gradient and no value.
  """
  hold = jax.lax.stop_gradient
  ends, shape = params['process']['ends'], params['process']['shape']
  loss, mse, noisy = losses(params | {'process': {'ends': ends, 'shape': hold(shape)}})
  square = losses(hold(params) | {'process': {'ends': hold(ends), 'shape': shape}})[0] ** 2
  rest = ends_nats(model.process_at(params), noisy.x0, noisy.eps, spec.levels)
  return loss + rest / math.prod(spec.shape) + square - hold(square), mse, noisy
