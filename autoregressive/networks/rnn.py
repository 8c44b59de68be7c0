"""Recurrent networks: tanh, LSTM (Hochreiter & Schmidhuber 1997) and GRU (Cho et al. 2014).

The cache holds the carries of the cells from one position to the next; it does not grow.
"""

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Key

from autoregressive.networks.base import EMBED_STD, CausalNetwork
from common.ranges import AT_LEAST_ONE, BELOW_ONE

# What a layer hands from one position to the next, in float32. The last array is the hidden state.
Carry = tuple[Float[Array, 'batch width'], ...]
CellParams = Mapping[str, Mapping[str, Array]]  # as those of a flax cell


class Recurrent(CausalNetwork):
  """A stack of recurrent layers, whose parameters have the names and shapes of a flax cell.

  Attributes:
    width: width of inputs, carries and outputs.
    layers: number of stacked recurrent layers.
    dropout: rate at the input and after each layer (Zaremba et al. 2014).
    dtype: type of the products and of the hidden states; carries stay float32.
    cell: the flax cell, a class attribute like the next two.
    carry_size: the number of arrays in a carry.
    hidden_products: the names of the cell's products of the hidden state.
  """

  width: Annotated[int, AT_LEAST_ONE] = 256
  layers: Annotated[int, AT_LEAST_ONE] = 2
  dropout: Annotated[float, BELOW_ONE] = 0.0
  dtype: str = 'float32'

  cell: ClassVar[type[nn.RNNCellBase]]
  carry_size: ClassVar[int] = 1
  hidden_products: ClassVar[tuple[str, ...]]
  sequential = True
  embed_std = 1.0

  @staticmethod
  def input_gates(params: CellParams, x: Float[Array, '... width']) -> Float[Array, '... gates']:
    """The part of the gates that does not depend on the hidden state, before their nonlinearity.

    The first len(hidden_products)·width numbers are those to which the products of the hidden state
    are added, in the order of `hidden_products`.
    """
    raise NotImplementedError

  @staticmethod
  def step(gates: Float[Array, 'batch gates'], carry: Carry) -> Carry:
    """The next carry, from complete gates and the last carry."""
    raise NotImplementedError

  def init_cache(self, batch: int, length: int) -> tuple[Carry, ...]:
    """The carry of each layer before the first position; it does not depend on the length."""
    del length
    return ((jnp.zeros((batch, self.width)),) * self.carry_size,) * self.layers

  @nn.compact
  def __call__(
    self,
    h: Float[Array, 'batch length width'],
    cache: tuple[Carry, ...] | None = None,
    train: bool = False,
    segments: Int[Array, 'batch length'] | None = None,
  ) -> tuple[Float[Array, 'batch length width'], tuple[Carry, ...] | None]:
    """Runs the network on a whole sequence, or on the next part of one.

    Args:
      h: embedded inputs.
      cache: state after the previous parts, from `init_cache` or an earlier call; None: h is a
        whole sequence.
      train: whether dropout is on; it needs the random stream 'dropout'.
      segments: number of the document that each position belongs to; carries start from zero with
        each document.

    Returns:
      Hidden states, and the cache after this part (None without).
    """
    drop = nn.Dropout(self.dropout, deterministic=not train)
    # The first position needs no reset: a new carry is zero, and a cached one continues.
    starts = jnp.zeros(h.shape[:2], bool)
    if segments is not None:
      starts = starts.at[:, 1:].set(segments[:, 1:] != segments[:, :-1])
    # Each layer runs over the whole part before the next one starts.
    carries = self.init_cache(h.shape[0], h.shape[1]) if cache is None else cache
    ends, h = [], drop(h.astype(self.dtype))
    for i, carry in enumerate(carries):
      end, h = _Layer(type(self), self.width, self.dtype, name=f'layer_{i}')(carry, h, starts)
      ends.append(end)
      h = drop(h)
    return h, None if cache is None else tuple(ends)


class _Layer(nn.Module):
  """One recurrent layer over the positions of a sequence."""

  network: type[Recurrent]
  width: int
  dtype: str

  @nn.compact
  def __call__(
    self,
    carry: Carry,
    h: Float[Array, 'batch length width'],
    starts: Bool[Array, 'batch length'],
  ) -> tuple[Carry, Float[Array, 'batch length width']]:
    params = self.param('cell', _init_cell, self.network.cell, self.width)
    params = jax.tree.map(lambda x: x.astype(self.dtype), params)
    # The products of the inputs need no hidden state: one product for all positions.
    gates = self.network.input_gates(params, h).swapaxes(0, 1)
    kernel = join_products(params, self.network.hidden_products, 'kernel')
    end, states = recurrence(self.network.step, kernel, carry, gates, starts.swapaxes(0, 1))
    return end, states.swapaxes(0, 1)


def _init_cell(key: Key[Array, ''], cell: type[nn.RNNCellBase], width: int) -> CellParams:
  """New parameters of a flax cell."""
  new, x = cell(width, parent=None), jnp.zeros((1, width))
  return new.init(key, new.initialize_carry(key, x.shape), x)['params']


def join_products(params: CellParams, names: Sequence[str], leaf: str) -> Float[Array, '... gates']:
  """The kernels, or the biases, of these products side by side, as one product."""
  return jnp.concatenate([params[name][leaf] for name in names], axis=-1)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def recurrence(
  step: Callable[[Float[Array, 'batch gates'], Carry], Carry],
  kernel: Float[Array, 'width hidden'],
  carry: Carry,
  gates: Float[Array, 'length batch gates'],
  starts: Bool[Array, 'length batch'],
) -> tuple[Carry, Float[Array, 'length batch width']]:
  """Runs a cell over the positions of a sequence.

  The gradient of the kernel is one product for all positions, after the loop that goes back through
  them. By itself, JAX would add a product to it at each position, which takes most of the time if
  batches are small. Forward-mode derivatives (`jax.jvp`) are not defined.

  Args:
    step: see `Recurrent.step`.
    kernel: of the products of the hidden state, which are added to the first gates.
    carry: before the first position.
    gates: the part of the gates that does not depend on the hidden state.
    starts: whether the carry is reset to zero before a position.

  Returns:
    (the carry after the last position, the hidden states in the type of the gates).
  """
  return run(step, kernel, carry, gates, starts)


def run(step, kernel, carry, gates, starts):
  """`recurrence` as JAX differentiates it."""
  return jax.lax.scan(functools.partial(_position, step, kernel), carry, (gates, starts))


@jax.named_scope('cell')
def _position(step, kernel, carry, inputs):
  """One position: the next carry, and the hidden state in the type of the gates."""
  gates, start = inputs
  carry = jax.tree.map(lambda x: jnp.where(start[:, None], 0, x), carry)
  product = carry[-1].astype(gates.dtype) @ kernel
  gates = gates + jnp.pad(product, ((0, 0), (0, gates.shape[1] - product.shape[1])))
  # Carries stay float32: rounding to 16 bits would add up over the sequence.
  after = tuple(x.astype(jnp.float32) for x in step(gates, carry))
  return after, after[-1].astype(gates.dtype)


def _forward(step, kernel, carry, gates, starts):
  results, back = jax.vjp(lambda c, g: run(step, kernel, c, g, starts), carry, gates)
  return results, (back, kernel, carry[-1], results[1], starts)


def _backward(step, saved, cotangents):
  del step
  back, kernel, first, states, starts = saved
  to_carry, to_gates = back(cotangents)
  # The hidden state that each position has multiplied by the kernel: the one before it, or zero.
  before = jnp.concatenate([first.astype(states.dtype)[None], states[:-1]])
  before = jnp.where(starts[..., None], 0, before)
  # The product is added to the first gates, so their gradient is that of the product.
  to_kernel = jnp.einsum('tbi,tbo->io', before, to_gates[..., : kernel.shape[1]])
  return to_kernel, to_carry, to_gates, None


recurrence.defvjp(_forward, _backward)


class RNN(Recurrent):
  """The plain recurrence h ← tanh(W·x + U·h + b) (Elman 1990)."""

  cell = nn.SimpleCell
  hidden_products = ('h',)
  embed_std = EMBED_STD  # larger inputs saturate the tanh, whose gradients then vanish sooner

  @staticmethod
  def input_gates(params, x):
    return x @ params['i']['kernel'] + params['i']['bias']

  @staticmethod
  def step(gates, carry):
    return (jnp.tanh(gates),)


class LSTM(Recurrent):
  """Long short-term memory; a carry is the memory and the hidden state."""

  cell = nn.OptimizedLSTMCell
  carry_size = 2
  hidden_products = ('hi', 'hf', 'hg', 'ho')

  @staticmethod
  def input_gates(params, x):
    kernel = join_products(params, ('ii', 'if', 'ig', 'io'), 'kernel')
    return x @ kernel + join_products(params, LSTM.hidden_products, 'bias')

  @staticmethod
  def step(gates, carry):
    i, f, g, o = jnp.split(gates, 4, axis=-1)
    memory = jax.nn.sigmoid(f) * carry[0] + jax.nn.sigmoid(i) * jnp.tanh(g)
    return memory, jax.nn.sigmoid(o) * jnp.tanh(memory)


class GRU(Recurrent):
  """Gated recurrent units."""

  cell = nn.GRUCell
  hidden_products = ('hr', 'hz', 'hn')

  @staticmethod
  def input_gates(params, x):
    inputs = ('ir', 'iz', 'in')
    from_x = x @ join_products(params, inputs, 'kernel') + join_products(params, inputs, 'bias')
    r, z, candidate = jnp.split(from_x, 3, axis=-1)
    # The candidate has two parts, because the reset gate multiplies only that of the hidden state.
    bias = jnp.broadcast_to(params['hn']['bias'], candidate.shape)
    return jnp.concatenate([r, z, bias, candidate], axis=-1)

  @staticmethod
  def step(gates, carry):
    r, z, from_hidden, from_input = jnp.split(gates, 4, axis=-1)
    z = jax.nn.sigmoid(z)
    candidate = jnp.tanh(from_input + jax.nn.sigmoid(r) * from_hidden)
    return ((1 - z) * candidate + z * carry[0],)
