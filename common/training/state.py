"""The state of a training run, and one optimiser step over it."""

from collections.abc import Callable, Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int, Key

from common.method import Aux, Batch, Context, Method, PyTree
from common.training.averages import decay_at, gamma_of, power_share


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


Step = Callable[[TrainState, Batch], tuple[TrainState, Mapping[str, Array]]]


def init_state(
  method: Method,
  optimizer: optax.GradientTransformation,
  batch: Batch,
  seed: int,
  averages: int = 0,
) -> TrainState:
  """The state before the first step. Pure: may be jitted, or given to `jax.eval_shape`.

  Args:
    method: what is trained.
    optimizer: an optax chain.
    batch: of which the shapes matter.
    seed: root of all randomness.
    averages: how many power-function averages to keep.
  """
  params, memory = method.init(jax.random.fold_in(jax.random.key(seed), 2**31 - 1), batch)
  zero = jnp.zeros((), jnp.int32)
  ema = jax.tree.map(jnp.copy, params)
  kept = tuple(jax.tree.map(jnp.copy, params) for _ in range(averages))
  return TrainState(zero, params, memory, optimizer.init(params), ema, zero, zero, kept)


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
    ema: `decay` and `warmup` of the moving average; or more of `common.averages.in_steps`.
    micro_batches: parts into which each batch is cut, one after the other, to save memory.
    axis: name of the mapped axis when run under `pmap`, else None.

  Returns:
    A pure function; every array of `batches` is [steps, batch, ...] and every metric [steps].
  """

  gammas = [gamma_of(width) for width in ema.get('widths', ())]

  def step(state: TrainState, batch: Batch) -> tuple[TrainState, Mapping[str, Array]]:
    key = jax.random.fold_in(jax.random.key(seed), state.step)
    loss, grads, aux = _loss_and_gradient(method, state, batch, key, micro_batches, axis)
    norm = optax.global_norm(grads)
    updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
    params = optax.apply_updates(state.params, updates)
    average = _towards(state.ema, params, 1 - decay_at(state.step, ema))
    good = jnp.isfinite(norm) & jnp.isfinite(loss)
    new = (params, aux.memory, opt_state, average)
    old = (state.params, state.memory, state.opt_state, state.ema)
    kept = jax.tree.map(lambda n, o: jnp.where(good, n, o), new, old)
    bad_in_a_row = jnp.where(good, 0, state.bad_in_a_row + 1)
    bad_total = state.bad_total + (~good).astype(jnp.int32)
    averages = tuple(
      _towards(old, kept[0], power_share(state.step, gamma))
      for old, gamma in zip(state.averages, gammas, strict=True)
    )
    metrics = dict(aux.metrics, loss=loss, gradient_norm=norm, bad_in_a_row=bad_in_a_row)
    return TrainState(state.step + 1, *kept, bad_in_a_row, bad_total, averages), metrics

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


def _towards(old: PyTree, new: PyTree, share: Float[Array, '']) -> PyTree:
  """That share of the way from the old parameters to the new ones."""
  return jax.tree.map(lambda a, b: a + share * (b - a), old, new)


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
