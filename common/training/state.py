"""The state of a training run, and one optimiser step over it."""

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.extend import core
from jaxtyping import Array, Bool, Float, Int, Key

from common import flops
from common.method import Aux, Batch, Context, Method, PyTree
from common.precision import LossScaling, scaled_gradient
from common.training.averages import Averaging, power_update_weight

# The key of step n is fold_in(key(seed), n). All other keys of a run fold in one of these numbers
# from the top of the range, which no step reaches.
INIT_STREAM, VALIDATION_STREAM, PREVIEW_STREAM, EVALUATION_STREAM = (2**31 - n for n in range(1, 5))


def stream_key(seed: int, stream: int | Int[Array, '']) -> Key[Array, '']:
  """The key of a step, or of one of the streams above."""
  return jax.random.fold_in(jax.random.key(seed), stream)


class TrainState(NamedTuple):
  """Everything a run remembers.

  Attributes:
    step: the number of optimiser steps, including skipped ones.
    params: the parameters that the optimiser updates.
    memory: what the method remembers between steps in addition to its parameters.
    opt_state: the optimiser's state.
    ema: exponential moving average of `params`: evaluation and sampling use it.
    bad_in_a_row: the number of steps skipped since the last good step. Where log2 of the loss
      scale is above 0 they do not count: a lower one may be all that they need.
    bad_total: the number of steps skipped in the whole run. A step is skipped if its loss or its
      gradient is not finite (after `TrainStep.nan_to_num`).
    averages: power-function averages of `params`, one per width of `ema.widths`.
    log2_loss_scale: log2 of the factor of the loss (`LossScaling`); (): there is none.
  """

  step: Int[Array, '']
  params: PyTree
  memory: PyTree
  opt_state: PyTree
  ema: PyTree
  bad_in_a_row: Int[Array, '']
  bad_total: Int[Array, '']
  averages: tuple[PyTree, ...] = ()
  log2_loss_scale: Float[Array, ''] | tuple[()] = ()


Metrics = Mapping[str, Any]  # arrays [steps]


def init_state(
  method: Method,
  optimizer: optax.GradientTransformation,
  batch: Batch,
  seed: int,
  num_averages: int = 0,
  loss_scaling: LossScaling | None = None,
) -> TrainState:
  """The state before the first step. Pure: works under `jax.jit` and `jax.eval_shape`.

  Args:
    method: the method to train.
    optimizer: an optax chain.
    batch: a batch, of which most methods use the shapes only (`Method.init_examples`).
    seed: the seed of all random numbers.
    num_averages: the number of power-function averages.
    loss_scaling: the scaling of the loss, or None.
  """
  params, memory = method.init(stream_key(seed, INIT_STREAM), batch)
  zero = jnp.zeros((), jnp.int32)
  # Copies, because the compiled step donates the state: two leaves must not share a buffer.
  ema = jax.tree.map(jnp.copy, params)
  averages = tuple(jax.tree.map(jnp.copy, params) for _ in range(num_averages))
  log2_scale = () if loss_scaling is None else loss_scaling.start()
  optimized = (memory, optimizer.init(params), ema)
  return TrainState(zero, params, *optimized, zero, zero, averages, log2_scale)


@dataclasses.dataclass(frozen=True)
class TrainStep:
  """`(state, batches) -> (state, metrics)`: one optimiser step for each batch of a stack.

  A pure function of its arguments. Every array in `batches` is [steps, batch, ...] and every metric
  is [steps]. Instances with equal fields are equal, and share one compiled program under `jit`.

  The key of step n is fold_in(key(seed), n), and the random numbers of an example depend only on
  that key and on the example's index in the global batch. They are the same with and without
  interruptions, and however the batch is split over devices and micro-batches.

  Attributes:
    method: the method to train.
    optimizer: an optax chain.
    seed: the seed of all random numbers.
    averaging: how the parameters are averaged.
    micro_batches: the number of parts of a batch, which run one after the other to save memory.
    axis: the name of the mapped axis under `pmap`, or None.
    nan_to_num: unless 0, NaN in the gradient becomes 0 and ±infinity becomes ± this number (Karras
      et al. 2022, code), before its norm is taken. A step with such a gradient is therefore not
      skipped; a step whose loss is not finite still is.
    loss_scaling: how the loss is scaled, for float16; None: it is not.
  """

  method: Method
  optimizer: optax.GradientTransformation
  seed: int
  averaging: Averaging
  micro_batches: int = 1
  axis: str | None = None
  nan_to_num: float = 0.0
  loss_scaling: LossScaling | None = None

  def __call__(self, state: TrainState, batches: Batch) -> tuple[TrainState, Metrics]:
    """Runs one optimiser step for each batch of the stack."""
    if batches['x'].shape[0] > 1:
      return jax.lax.scan(self.step, state, batches)
    # A single step needs no loop, which would slow convolutions (`parallel.JitStep.unrolled`).
    state, metrics = self.step(state, jax.tree.map(lambda v: v[0], batches))
    return state, jax.tree.map(lambda v: v[None], metrics)

  def step(self, state: TrainState, batch: Batch) -> tuple[TrainState, Metrics]:
    """One optimiser step on a batch [batch, ...]; metrics are scalars."""
    loss, grads, aux = self._loss_and_gradient(state, batch)
    if self.nan_to_num:
      grads = finite_gradient(grads, self.nan_to_num)
    # The norm of the global batch's gradient: after the sum over devices, before clipping.
    norm = optax.global_norm(grads)
    updates, opt_state = self.optimizer.update(grads, state.opt_state, state.params)
    params = optax.apply_updates(state.params, updates)
    ema = _interpolate(state.ema, params, 1 - self.averaging.decay_at(state.step))

    # A bad step changes only the counters and the loss scale.
    good = jnp.isfinite(norm) & jnp.isfinite(loss)
    new = (params, aux.memory, opt_state, ema)
    old = (state.params, state.memory, state.opt_state, state.ema)
    params, memory, opt_state, ema = jax.tree.map(lambda n, o: jnp.where(good, n, o), new, old)
    metrics, counted, log2_scale = dict(aux.metrics, loss=loss, gradient_norm=norm), 1, ()
    if self.loss_scaling is not None:
      metrics['log2_loss_scale'] = state.log2_loss_scale
      counted = (state.log2_loss_scale <= 0).astype(jnp.int32)
      log2_scale = self.loss_scaling.after(state.log2_loss_scale, good)
    bad_in_a_row = jnp.where(good, 0, state.bad_in_a_row + counted)
    bad_total = state.bad_total + (~good).astype(jnp.int32)

    # Power-function averages are updated in bad steps too, with unchanged parameters, because their
    # weights depend on the number of the step.
    averages = tuple(
      _interpolate(average, params, power_update_weight(state.step, gamma))
      for average, gamma in zip(state.averages, self.averaging.gammas, strict=True)
    )
    kept, counters = (params, memory, opt_state, ema), (bad_in_a_row, bad_total)
    new_state = TrainState(state.step + 1, *kept, *counters, averages, log2_scale)
    return new_state, metrics | {'bad_in_a_row': bad_in_a_row}

  def _loss_and_gradient(
    self, state: TrainState, batch: Batch
  ) -> tuple[Float[Array, ''], PyTree, Aux]:
    """Mean loss and gradient over the global batch; parts are weighted by their counts."""
    local = batch['x'].shape[0]
    # Under `pmap` a device sees only its part of the batch; examples keep their global indices.
    devices = 1 if self.axis is None else jax.lax.axis_size(self.axis)
    first = 0 if self.axis is None else jax.lax.axis_index(self.axis) * local
    index = first + jnp.arange(local, dtype=jnp.int32)
    key = stream_key(self.seed, state.step)
    part = functools.partial(self._weighted_part, state, key, local * devices)
    if self.micro_batches == 1:
      memory, total = part(state.memory, batch, index)
    else:
      micro_batches = _split((batch, index), self.micro_batches)
      memory, total = _accumulate(part, state.memory, micro_batches)
    if self.axis is not None:
      total = jax.lax.psum(total, self.axis)
    # Divide once, after all sums: the mean is then correct for parts of unequal counts too.
    weighted, count = total
    loss, grads, metrics = jax.tree.map(lambda v: v / jnp.maximum(count, 1e-12), weighted)
    return loss, grads, Aux(metrics, memory, count)

  def _weighted_part(
    self,
    state: TrainState,
    key: Key[Array, ''],
    batch_size: int,
    memory: PyTree,
    batch: Batch,
    index: Int[Array, 'n'],
  ) -> tuple[PyTree, PyTree]:
    """(memory, ((loss, gradient, metrics) times the count, count)) of a part of the batch."""
    context = Context(state.step, state.ema, True, index, batch_size)
    arguments = (state.params, memory, batch, key, context)
    if self.loss_scaling is None:
      (loss, aux), grads = jax.value_and_grad(self.method.loss, has_aux=True)(*arguments)
    else:
      (loss, aux), grads = scaled_gradient(self.method.loss, state.log2_loss_scale, *arguments)
    weighted = jax.tree.map(lambda v: v * aux.count, (loss, grads, dict(aux.metrics)))
    return aux.memory, (weighted, aux.count)


def finite_gradient(grads: PyTree, bound: float) -> PyTree:
  """The gradient with 0 for NaN, and ±`bound` for ±infinity (Karras et al. 2022, code)."""
  replace = functools.partial(jnp.nan_to_num, posinf=bound, neginf=-bound)
  return jax.tree.map(replace, grads)


@jax.jit
def is_finite(tree: PyTree) -> Bool[Array, '']:
  """Whether no value of a pytree of floats is NaN or infinite."""
  finite = jax.tree.map(lambda leaf: jnp.isfinite(leaf).all(), tree)
  return jax.tree.reduce(jnp.logical_and, finite, jnp.bool_(True))


def loss_jaxpr(method: Method, state: TrainState, batch: Batch) -> core.Jaxpr:
  """The loss of a training step, traced to count its operations (`flops.trace`).

  Only shapes and types of `state` and `batch` matter.
  """
  return flops.trace(functools.partial(_loss_value, method), state, batch)


def gradient_jaxpr(method: Method, state: TrainState, batch: Batch) -> core.Jaxpr:
  """The loss of a training step and its gradient, traced to count their operations.

  Only shapes and types of `state` and `batch` matter.
  """
  function = jax.value_and_grad(functools.partial(_loss_of_params, method))
  return flops.trace(function, state.params, state, batch)


def _loss_of_params(
  method: Method, params: PyTree, state: TrainState, batch: Batch
) -> Float[Array, '']:
  return _loss_value(method, state._replace(params=params), batch)


def _loss_value(method: Method, state: TrainState, batch: Batch) -> Float[Array, '']:
  index = jnp.arange(batch['x'].shape[0], dtype=jnp.int32)
  context = Context(state.step, state.ema, True, index, index.shape[0])
  return method.loss(state.params, state.memory, batch, jax.random.key(0), context)[0]


def _interpolate(old: PyTree, new: PyTree, weight: Float[Array, '']) -> PyTree:
  """old + weight · (new − old). In this form a weight of 0 gives `old` exactly."""
  return jax.tree.map(lambda a, b: a + weight * (b - a), old, new)


def _accumulate(part: Callable, memory: PyTree, parts: PyTree) -> tuple[PyTree, PyTree]:
  """Sums `part` over micro-batches, and passes the method's memory from one to the next."""

  def add(carry, one):
    memory, total = carry
    memory, value = part(memory, *one)
    return (memory, jax.tree.map(jnp.add, total, value)), None

  # The sums start as zeros; `eval_shape` gives their shapes without computing anything.
  shapes = jax.eval_shape(part, memory, *jax.tree.map(lambda v: v[0], parts))[1]
  zeros = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), shapes)
  return jax.lax.scan(add, (memory, zeros), parts)[0]


def _split(tree: PyTree, parts: int) -> PyTree:
  """[batch, ...] to [parts, batch / parts, ...]; part p has the examples p, p + parts, ...

  Strided, so that each device splits its own part of the batch: no example changes its device.
  """
  return jax.tree.map(
    lambda v: v.reshape(v.shape[0] // parts, parts, *v.shape[1:]).swapaxes(0, 1), tree
  )
