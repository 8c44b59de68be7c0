"""One network per interval of noise: expert denoisers (Balaji et al. 2022, "eDiff-I", section 4).

The K experts have one architecture, and their parameters are stacked, [K, ...]. Each example costs
the work of one network, because it only passes through the expert of its own noise level. Which
program does that depends on the batch:

  grouped   each expert has the same number of examples, as in training with stratified times: the
            batch is sorted into [K, batch/K], and all experts run at once (with convolutions, one
            after the other)
  single    all examples have one noise level, as in a step of a sampler: its expert runs alone
  blocks    any other batch: sorted into blocks of batch/K examples of one expert each, one block
            after the other. The last block of an expert is filled up, so the batch takes less than
            twice the work

`grouped` and `single` are conditions on the noise levels, and so are checked while a program runs.
"""

import functools
from collections.abc import Callable
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, Key

from common import flops
from common.config import ConfigError
from common.devices.mesh import split_rows
from common.method import PyTree
from common.training.sharding import gathered
from diffusion.networks.base import DiffusionNetwork
from diffusion.objectives.times import TimeDistribution
from diffusion.processes.process import Process


class Examples(NamedTuple):
  """The inputs of a network; every array has the examples along its first axis."""

  x: Float[Array, 'batch *space channels']
  noise: Float[Array, 'batch']
  label: Int[Array, 'batch'] | None
  augment: Float[Array, 'batch numbers'] | None

  def take(self, index: Int[Array, '*shape']) -> 'Examples':
    """The examples at an index, whose shape replaces the batch axis."""
    return jax.tree.map(lambda array: array[index], self)


class Assignment(NamedTuple):
  """Which expert each example belongs to.

  Attributes:
    expert: of each example.
    order: the examples in order of their experts.
    place: the place of each example in that order.
    counts: the number of examples of each expert.
    starts: the place of each expert's first example.
  """

  expert: Int[Array, 'batch']
  order: Int[Array, 'batch']
  place: Int[Array, 'batch']
  counts: Int[Array, 'experts']
  starts: Int[Array, 'experts']

  @property
  def even(self) -> Bool[Array, '']:
    """Whether all experts have the same number of examples."""
    return jnp.all(self.counts == self.counts[0])

  @property
  def one(self) -> Bool[Array, '']:
    """Whether all examples belong to one expert."""
    return jnp.any(self.counts == self.expert.shape[0])


def assign(noise: Float[Array, 'batch'], edges: Float[Array, 'edges']) -> Assignment:
  """Assigns each example to the expert of its noise; an edge belongs to the interval above it."""
  expert = jnp.searchsorted(edges, noise, side='right')
  order = jnp.argsort(expert)  # stable
  counts = jnp.bincount(expert, length=edges.shape[0] + 1)
  return Assignment(expert, order, jnp.argsort(order), counts, jnp.cumsum(counts) - counts)


class OneExpert(NamedTuple):
  """A single network, applied to its examples.

  Attributes:
    network: the network, not bound to parameters.
    train: whether dropout is on.
  """

  network: DiffusionNetwork
  train: bool

  def __call__(self, params: PyTree, examples: Examples, key: Key[Array, ''] | None) -> Array:
    x, noise, label, augment = examples
    return self.network.apply(
      {'params': params},
      x,
      noise,
      label,
      train=self.train,
      rngs={} if key is None else {'dropout': key},
      **({} if augment is None else {'augment': augment}),
    )

  def unpacked(self, arguments: tuple) -> Array:
    """The same with its arguments in a tuple, as `lax.map` calls it."""
    params, examples, key = arguments
    return self(gathered(params, 'network'), examples, key)


def apply_grouped(
  one: OneExpert,
  params: PyTree,
  examples: Examples,
  assignment: Assignment,
  key: Key[Array, ''] | None,
) -> Float[Array, 'batch *space channels']:
  """Each expert on its part, for a batch of which all have the same share.

  Args:
    one: applies one network.
    params: of all experts, stacked.
    examples: the batch, a multiple of the number of experts.
    assignment: the expert of each example.
    key: of dropout, or None.
  """
  count = assignment.counts.shape[0]
  grouped = split_rows(examples.take(assignment.order.reshape(count, -1)))
  parts = params, grouped, None if key is None else jax.random.split(key, count)
  # XLA (JAX 0.10.2) gives wrong gradients for stacked convolutions whose examples are on several
  # devices.
  y = jax.lax.map(one.unpacked, parts) if one.network.has_convolutions else jax.vmap(one)(*parts)
  return y.reshape(-1, *y.shape[2:])[assignment.place]


def apply_single(
  one: OneExpert,
  params: PyTree,
  examples: Examples,
  assignment: Assignment,
  key: Key[Array, ''] | None,
) -> Float[Array, 'batch *space channels']:
  """One expert alone, for a batch that belongs to it; see `apply_grouped`."""
  return one(expert_params(params, assignment.expert[0]), examples, key)


def apply_blocks(
  one: OneExpert,
  params: PyTree,
  examples: Examples,
  assignment: Assignment,
  key: Key[Array, ''] | None,
) -> Float[Array, 'batch *space channels']:
  """Block after block, for any batch; see `apply_grouped`."""
  batch, count = assignment.expert.shape[0], assignment.counts.shape[0]
  size = -(-batch // count)
  # The sum of ceil(n/size) over the experts that can have an example.
  number = (batch + min(batch, count) * (size - 1)) // size
  blocks = -(-assignment.counts // size)  # of each expert
  ends = jnp.cumsum(blocks)
  firsts = ends - blocks
  owner = jnp.minimum(jnp.searchsorted(ends, jnp.arange(number), side='right'), count - 1)
  # Row j of block m has the expert's example number (m − its first block)·size + j, or its last.
  rank = (jnp.arange(number) - firsts[owner])[:, None] * size + jnp.arange(size)
  rank = jnp.minimum(rank, assignment.counts[owner][:, None] - 1)
  places = jnp.clip(assignment.starts[owner][:, None] + rank, 0, batch - 1)
  inputs = split_rows(examples.take(assignment.order[places]))
  body = functools.partial(_block, one, params, key, ends[-1])
  _, y = jax.lax.scan(body, jnp.zeros((), jnp.int32), (owner, inputs))
  own = assignment.place - assignment.starts[assignment.expert]
  rows = firsts[assignment.expert] * size + own
  return y.reshape(-1, *y.shape[2:])[rows]


def _block(
  one: OneExpert,
  params: PyTree,
  key: Key[Array, ''] | None,
  used: Int[Array, ''],
  index: Int[Array, ''],
  block: tuple[Int[Array, ''], Examples],
) -> tuple[Int[Array, ''], Array]:
  """The output of one block, as `lax.scan` calls it; nothing runs after the last used block."""
  owner, examples = block
  key = None if key is None else jax.random.fold_in(key, index)
  run = functools.partial(_run_block, one, params, owner, examples, key)
  shape = jax.eval_shape(run)
  y = jax.lax.cond(index < used, run, lambda: jnp.zeros(shape.shape, shape.dtype))
  return index + 1, y


def _run_block(one, params, owner, examples, key):
  return one(expert_params(params, owner), examples, key)


def expert_params(params: PyTree, index: int | Int[Array, '']) -> PyTree:
  """The parameters of one expert."""
  return gathered(jax.tree.map(lambda leaf: leaf[index], params), 'network')


class Experts(DiffusionNetwork):
  """Networks of one architecture, each for an interval of noise.

  The parameters are those of the network, stacked, in a subtree `experts`. Each expert has its own
  initial values.

  Attributes:
    network: the architecture.
    edges: the noise levels, as the network is given them, between one interval and the next, in
      increasing order: one less than there are experts.
  """

  network: DiffusionNetwork
  edges: tuple[float, ...]

  @nn.compact
  def __call__(
    self,
    x: Float[Array, 'batch *space channels'],
    noise: Float[Array, 'batch'],
    label: Int[Array, 'batch'] | None = None,
    train: bool = False,
    augment: Float[Array, 'batch numbers'] | None = None,
  ) -> Float[Array, 'batch *space out_channels']:
    network, examples = self.network.clone(parent=None), Examples(x, noise, label, augment)
    if self.is_initializing():
      params = self.param('experts', self._init, network, examples)
    else:
      params = self.get_variable('params', 'experts')
    one = OneExpert(network, train)
    key = self.make_rng('dropout') if train and self.has_rng('dropout') else None
    assignment = assign(noise, jnp.asarray(self.edges, noise.dtype))
    arguments = params, examples, assignment, key
    # Each example costs one network, whichever program runs: the plainest of them is counted.
    if flops.counting.value:
      return apply_single(one, *arguments)
    if not train:
      run = _either(assignment.one, apply_single, apply_blocks, one)
    elif x.shape[0] % (len(self.edges) + 1) == 0:
      run = _either(assignment.even, apply_grouped, apply_blocks, one)
    else:
      run = functools.partial(apply_blocks, one)
    return run(*arguments)

  def _init(self, key: Key[Array, ''], network: DiffusionNetwork, examples: Examples) -> PyTree:
    """The parameters of all experts, stacked."""
    keys = jax.random.split(key, len(self.edges) + 1)
    return jax.vmap(functools.partial(_init_one, network, examples))(keys)


def _init_one(network: DiffusionNetwork, examples: Examples, key: Key[Array, '']) -> PyTree:
  return network.init(key, examples.x, examples.noise, examples.label)['params']


def _either(
  condition: Bool[Array, ''], usual: Callable, other: Callable, one: OneExpert
) -> Callable[..., Array]:
  """Runs one of two programs."""
  # A condition keeps what both branches keep for the backward pass: the rare one keeps nothing.
  rare = jax.checkpoint(functools.partial(other, one))
  return functools.partial(jax.lax.cond, condition, functools.partial(usual, one), rare)


def interval_edges(
  count: int,
  process: Process,
  times: TimeDistribution,
  conditioning: Callable[[Process, Array], Array],
) -> tuple[float, ...]:
  """The noise levels that divide the training times into intervals of equal shares.

  Args:
    count: number of intervals.
    process: the diffusion process.
    times: the distribution of training times.
    conditioning: (process, t) -> the noise level that a network is given; it must rise with t.

  Raises:
    ConfigError: for intervals that would move in training, or hold no time.
  """
  if process.learned or not (times.fixed and times.covers_all_times):
    what = "process 'learned'" if process.learned else f'objective.times {type(times).__name__}'
    raise ConfigError(
      f'experts={count} needs intervals of noise that stay the same in training, which {what} does'
      ' not give: choose another, or set experts=1'
    )
  # Concrete numbers even while tracing.
  with jax.ensure_compile_time_eval():
    u = jnp.arange(1, count, dtype=jnp.float32) / count
    t = times.sample(process, u, times.init(process)).t
    if process.steps:
      t = t + 0.5 / process.steps  # between the last step below the edge and the next one
    edges = np.asarray(conditioning(process, t), np.float32)
  if not (np.diff(edges) > 0).all():
    raise ConfigError(
      f'experts={count}: some of the intervals of noise are empty, with edges at {edges.tolist()};'
      ' use fewer experts'
    )
  return tuple(edges.tolist())
