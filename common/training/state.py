"""The state of a training run, and one optimiser step over it."""

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int, Key

from common.method import Aux, Batch, Context, Method, PyTree
from common.training.averages import Averaging, power_share

# Step n draws from fold_in(key(seed), n). Everything else that a run draws takes a number from the
# top of the range, where no step ever gets to.
INIT_STREAM, VALIDATION_STREAM, PREVIEW_STREAM, EVALUATION_STREAM = (2**31 - n for n in range(1, 5))


def stream_key(seed: int, stream: int | Int[Array, '']) -> Key[Array, '']:
  """The key of a step, or of one of the streams above."""
  return jax.random.fold_in(jax.random.key(seed), stream)


class TrainState(NamedTuple):
  """Everything a run remembers.

  Attributes:
    step: optimiser steps taken, including the skipped ones.
    params: the parameters that the optimiser moves.
    memory: what the method remembers between steps besides its parameters.
    opt_state: the optimiser's state.
    ema: exponential moving average of `params`: evaluation and sampling use it.
    bad_in_a_row: steps skipped since the last good one.
    bad_total: steps skipped in the whole run because a gradient was not finite.
    averages: power-function averages of `params`, one per width of `ema.widths`.
  """

  step: Int[Array, '']
  params: PyTree
  memory: PyTree
  opt_state: PyTree
  ema: PyTree
  bad_in_a_row: Int[Array, '']
  bad_total: Int[Array, '']
  averages: tuple[PyTree, ...] = ()


Metrics = Mapping[str, Any]  # arrays [steps]


def init_state(
  method: Method,
  optimizer: optax.GradientTransformation,
  batch: Batch,
  seed: int,
  averages: int = 0,
) -> TrainState:
  """The state before the first step. Pure: may be jitted, or given to `jax.eval_shape`.

  Args:
    method: the method to train.
    optimizer: an optax chain.
    batch: a batch; only its shapes matter.
    seed: root of all randomness.
    averages: the number of power-function averages.
  """
  params, memory = method.init(stream_key(seed, INIT_STREAM), batch)
  zero = jnp.zeros((), jnp.int32)
  # Copies, because the state is donated to the compiled step: two leaves cannot share a buffer.
  ema = jax.tree.map(jnp.copy, params)
  copies = tuple(jax.tree.map(jnp.copy, params) for _ in range(averages))
  return TrainState(zero, params, memory, optimizer.init(params), ema, zero, zero, copies)


@dataclasses.dataclass(frozen=True)
class TrainStep:
  """`(state, batches) -> (state, metrics)` for a stack of batches, one optimiser step for each.

  A pure function of its arguments. Every array of `batches` is [steps, batch, ...] and every metric
  [steps]. Instances with the same fields are equal, and share one compiled program under `jit`.

  The key of step n is fold_in(key(seed), n), and the randomness of an example depends only on that
  key and the example's index in the global batch. Neither interruptions nor the split over devices
  or micro-batches change it.

  Attributes:
    method: the method to train.
    optimizer: an optax chain.
    seed: root of all randomness.
    averaging: how the parameters are averaged.
    micro_batches: each batch is cut into this number of parts, run one after the other to save
      memory.
    axis: name of the mapped axis when run under `pmap`, else None.
  """

  method: Method
  optimizer: optax.GradientTransformation
  seed: int
  averaging: Averaging
  micro_batches: int = 1
  axis: str | None = None

  def __call__(self, state: TrainState, batches: Batch) -> tuple[TrainState, Metrics]:
    """One optimiser step for each batch of the stack."""
    if batches['x'].shape[0] > 1:
      return jax.lax.scan(self.step, state, batches)
    # A single step without a loop around it: see `parallel.JitStep.unrolled`.
    state, metrics = self.step(state, jax.tree.map(lambda v: v[0], batches))
    return state, jax.tree.map(lambda v: v[None], metrics)

  def step(self, state: TrainState, batch: Batch) -> tuple[TrainState, Metrics]:
    """One optimiser step on a batch [batch, ...]; metrics are scalars."""
    loss, grads, aux = self._loss_and_gradient(state, batch)
    # Before clipping, and after the sum over devices: the norm of the global batch's gradient.
    norm = optax.global_norm(grads)
    updates, opt_state = self.optimizer.update(grads, state.opt_state, state.params)
    params = optax.apply_updates(state.params, updates)
    ema = _interpolate(state.ema, params, 1 - self.averaging.decay_at(state.step))

    # A bad step leaves everything as it was, except the counters.
    good = jnp.isfinite(norm) & jnp.isfinite(loss)
    new = (params, aux.memory, opt_state, ema)
    old = (state.params, state.memory, state.opt_state, state.ema)
    params, memory, opt_state, ema = jax.tree.map(lambda n, o: jnp.where(good, n, o), new, old)
    bad_in_a_row = jnp.where(good, 0, state.bad_in_a_row + 1)
    bad_total = state.bad_total + (~good).astype(jnp.int32)

    # The power-function averages count a bad step as one that moved nothing: their weights follow
    # the number of the step.
    averages = tuple(
      _interpolate(average, params, power_share(state.step, gamma))
      for average, gamma in zip(state.averages, self.averaging.gammas, strict=True)
    )
    metrics = dict(aux.metrics, loss=loss, gradient_norm=norm, bad_in_a_row=bad_in_a_row)
    kept = (params, memory, opt_state, ema)
    return TrainState(state.step + 1, *kept, bad_in_a_row, bad_total, averages), metrics

  def _loss_and_gradient(
    self, state: TrainState, batch: Batch
  ) -> tuple[Float[Array, ''], PyTree, Aux]:
    """Mean loss and gradient over the global batch, each part weighted by its count."""
    local = batch['x'].shape[0]
    # Under `pmap` this device sees only its share; its examples keep their global indices.
    devices = 1 if self.axis is None else jax.lax.axis_size(self.axis)
    first = 0 if self.axis is None else jax.lax.axis_index(self.axis) * local
    index = first + jnp.arange(local, dtype=jnp.int32)
    key = stream_key(self.seed, state.step)
    part = functools.partial(self._weighted_part, state, key, local * devices)
    if self.micro_batches == 1:
      memory, total = part(state.memory, batch, index)
    else:
      memory, total = _accumulate(part, state.memory, _cut((batch, index), self.micro_batches))
    if self.axis is not None:
      total = jax.lax.psum(total, self.axis)
    # Divided once, after all sums: parts of unequal count give the mean over all examples.
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
    (loss, aux), grads = jax.value_and_grad(self.method.loss, has_aux=True)(
      state.params, memory, batch, key, context
    )
    weighted = jax.tree.map(lambda v: v * aux.count, (loss, grads, dict(aux.metrics)))
    return aux.memory, (weighted, aux.count)


def has_convolutions(method: Method, state: TrainState, batch: Batch) -> bool:
  """Whether the loss has convolutions; shapes and types are enough of `state` and `batch`."""
  jaxpr = jax.make_jaxpr(functools.partial(_loss_value, method))(state, batch)
  return 'conv_general_dilated' in str(jaxpr)


def _loss_value(method: Method, state: TrainState, batch: Batch) -> Float[Array, '']:
  index = jnp.arange(batch['x'].shape[0], dtype=jnp.int32)
  context = Context(state.step, state.ema, True, index, index.shape[0])
  return method.loss(state.params, state.memory, batch, jax.random.key(0), context)[0]


def _interpolate(old: PyTree, new: PyTree, share: Float[Array, '']) -> PyTree:
  """old + share · (new − old). In this form a share of 0 gives `old` exactly."""
  return jax.tree.map(lambda a, b: a + share * (b - a), old, new)


def _accumulate(part: Callable, memory: PyTree, parts: PyTree) -> tuple[PyTree, PyTree]:
  """Sums `part` over micro-batches, handing the method's memory from one to the next."""

  def add(carry, one):
    memory, total = carry
    memory, value = part(memory, *one)
    return (memory, jax.tree.map(jnp.add, total, value)), None

  # Zeros of the shapes of one part's sums, which `eval_shape` finds without computing anything.
  shapes = jax.eval_shape(part, memory, *jax.tree.map(lambda v: v[0], parts))[1]
  zeros = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), shapes)
  return jax.lax.scan(add, (memory, zeros), parts)[0]


def _cut(tree: PyTree, parts: int) -> PyTree:
  """[batch, ...] to [parts, batch / parts, ...]; part p holds the examples p, p + parts, ...

  Strided, so that each device cuts its own share of the batch and no example moves between devices.
  """
  return jax.tree.map(
    lambda v: v.reshape(v.shape[0] // parts, parts, *v.shape[1:]).swapaxes(0, 1), tree
  )
