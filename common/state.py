"""The state of a training run, and one optimiser step over it."""

from collections.abc import Callable, Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int, Key

from common.method import Aux, Batch, Context, Method, PyTree


class TrainState(NamedTuple):
  """Everything a run remembers.

  Attributes:
    step: optimiser steps taken, the skipped ones included.
    params: the parameters that the optimiser moves.
    memory: what the method remembers between steps beside them.
    opt_state: the optimiser's state.
    ema: exponential moving average of `params`; what is evaluated and sampled from.
    bad_in_a_row: steps skipped since the last good one.
    bad_total: steps skipped in the whole run, because a gradient was not finite.
  """

  step: Int[Array, '']
  params: PyTree
  memory: PyTree
  opt_state: PyTree
  ema: PyTree
  bad_in_a_row: Int[Array, '']
  bad_total: Int[Array, '']


Step = Callable[[TrainState, Batch], tuple[TrainState, Mapping[str, Array]]]


def init_state(
  method: Method, optimizer: optax.GradientTransformation, batch: Batch, seed: int
) -> TrainState:
  """The state before the first step. Pure: may be jitted, or given to `jax.eval_shape`."""
  params, memory = method.init(jax.random.fold_in(jax.random.key(seed), 2**31 - 1), batch)
  zero = jnp.zeros((), jnp.int32)
  ema = jax.tree.map(jnp.copy, params)
  return TrainState(zero, params, memory, optimizer.init(params), ema, zero, zero)


def ema_decay(step: Int[Array, ''], decay: float, warmup: bool) -> Float[Array, '']:
  """Decay of the moving average at `step`; with warm-up min(decay, (1 + n)/(10 + n)).

  Without it the average of a short run is mostly the initial noise.
  """
  n = step.astype(jnp.float32)
  return jnp.minimum(decay, (1.0 + n) / (10.0 + n)) if warmup else jnp.asarray(decay, jnp.float32)


def make_train_step(
  method: Method,
  optimizer: optax.GradientTransformation,
  *,
  seed: int,
  ema: Mapping,
  micro_batches: int = 1,
  axis: str | None = None,
) -> Step:
  """Builds `(state, batches) -> (state, metrics)` for a stack of batches: one step for each.

  The key of step n is fold_in(key(seed), n), and the randomness of an example hangs on its index in
  the global batch, so neither interruptions nor the split over devices or micro-batches change it.

  Args:
    method: what is trained.
    optimizer: an optax chain.
    seed: root of all randomness.
    ema: `decay` and `warmup` of the moving average.
    micro_batches: parts into which each batch is cut, one after the other, to save memory.
    axis: name of the mapped axis when run under `pmap`, else None.

  Returns:
    A pure function; every array of `batches` is [steps, batch, ...] and every metric [steps].
  """

  def step(state: TrainState, batch: Batch) -> tuple[TrainState, Mapping[str, Array]]:
    key = jax.random.fold_in(jax.random.key(seed), state.step)
    loss, grads, aux = _loss_and_gradient(method, state, batch, key, micro_batches, axis)
    norm = optax.global_norm(grads)
    updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
    params = optax.apply_updates(state.params, updates)
    rate = ema_decay(state.step, ema['decay'], ema['warmup'])
    average = jax.tree.map(lambda old, new: old + (1 - rate) * (new - old), state.ema, params)
    good = jnp.isfinite(norm) & jnp.isfinite(loss)
    new = (params, aux.memory, opt_state, average)
    old = (state.params, state.memory, state.opt_state, state.ema)
    kept = jax.tree.map(lambda n, o: jnp.where(good, n, o), new, old)
    bad_in_a_row = jnp.where(good, 0, state.bad_in_a_row + 1)
    bad_total = state.bad_total + (~good).astype(jnp.int32)
    metrics = dict(aux.metrics, loss=loss, gradient_norm=norm, bad_in_a_row=bad_in_a_row)
    return TrainState(state.step + 1, *kept, bad_in_a_row, bad_total), metrics

  def steps(state: TrainState, batches: Batch) -> tuple[TrainState, Mapping[str, Array]]:
    if batches['x'].shape[0] > 1:
      return jax.lax.scan(step, state, batches)
    # No loop around a single step, for `one_by_one`.
    state, metrics = step(state, jax.tree.map(lambda v: v[0], batches))
    return state, jax.tree.map(lambda v: v[None], metrics)

  return steps


def one_by_one(run: Step) -> Step:
  """The step on stacked batches, its calls of one batch each, the loop over them on the host."""

  def steps(state: TrainState, batches: Batch) -> tuple[TrainState, Mapping[str, Array]]:
    parts = []
    for i in range(batches['x'].shape[0]):
      state, metrics = run(state, {k: v[i : i + 1] for k, v in batches.items()})
      parts.append(metrics)
    return state, jax.tree.map(lambda *values: jnp.concatenate(values), *parts)

  return steps


def has_convolutions(method: Method, state: TrainState, batch: Batch) -> bool:
  """Whether the loss has convolutions; of `state` and `batch`, shapes and types are enough."""

  def loss(state, batch):
    index = jnp.arange(batch['x'].shape[0], dtype=jnp.int32)
    context = Context(state.step, state.ema, True, index, index.shape[0])
    return method.loss(state.params, state.memory, batch, jax.random.key(0), context)[0]

  return 'conv_general_dilated' in str(jax.make_jaxpr(loss)(state, batch))


def _loss_and_gradient(
  method: Method,
  state: TrainState,
  batch: Batch,
  key: Key[Array, ''],
  micro_batches: int,
  axis: str | None,
) -> tuple[Float[Array, ''], PyTree, Aux]:
  """Mean loss and gradient over the global batch, each part weighted by what it counted."""
  local = batch['x'].shape[0]
  devices = 1 if axis is None else jax.lax.axis_size(axis)
  first = 0 if axis is None else jax.lax.axis_index(axis) * local
  index = first + jnp.arange(local, dtype=jnp.int32)

  def part(memory, part_of_batch, part_of_index):
    context = Context(state.step, state.ema, True, part_of_index, local * devices)
    (loss, aux), grads = jax.value_and_grad(method.loss, has_aux=True)(
      state.params, memory, part_of_batch, key, context
    )
    weighted = jax.tree.map(lambda v: v * aux.count, (loss, grads, dict(aux.metrics)))
    return aux.memory, (weighted, aux.count)

  if micro_batches == 1:
    memory, total = part(state.memory, batch, index)
  else:
    memory, total = _accumulate(part, state.memory, _cut((batch, index), micro_batches))
  if axis is not None:
    total = jax.lax.psum(total, axis)
  weighted, count = total
  loss, grads, metrics = jax.tree.map(lambda v: v / jnp.maximum(count, 1e-12), weighted)
  return loss, grads, Aux(metrics, memory, count)


def _accumulate(part: Callable, memory: PyTree, parts: PyTree) -> tuple[PyTree, PyTree]:
  """Sums `part` over micro-batches, handing the method's memory from one to the next."""

  def add(carry, one):
    memory, total = carry
    memory, value = part(memory, *one)
    return (memory, jax.tree.map(jnp.add, total, value)), None

  shapes = jax.eval_shape(part, memory, *jax.tree.map(lambda v: v[0], parts))[1]
  zeros = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), shapes)
  return jax.lax.scan(add, (memory, zeros), parts)[0]


def _cut(tree: PyTree, parts: int) -> PyTree:
  """[batch, ...] to [parts, batch / parts, ...], part p holding the examples p, p + parts, ...

  Strided, so that a batch shared out over devices is cut on each device by itself.
  """
  return jax.tree.map(
    lambda v: v.reshape(v.shape[0] // parts, parts, *v.shape[1:]).swapaxes(0, 1), tree
  )
