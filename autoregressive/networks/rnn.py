"""Recurrent networks: tanh, LSTM (Hochreiter & Schmidhuber 1997) and GRU (Cho et al. 2014).

The cache holds the carries of the cells from one position to the next; it does not grow.
"""

import abc
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from autoregressive.networks.base import EMBED_STD, CausalNetwork
from common.ranges import AT_LEAST_ONE, BELOW_ONE

# What a cell hands from one position to the next. The last array is the hidden state.
Carry = tuple[Float[Array, 'batch width'], ...]
Cell = Mapping[str, Mapping[str, Array]]  # the parameters of a flax cell


class Recurrent(CausalNetwork):
  """A stack of recurrent layers with the parameters of a flax cell, which a subclass names.

  Attributes:
    width: width of inputs, carries and outputs.
    layers: number of stacked recurrent layers.
    dropout: rate at the input and after each layer (Zaremba et al. 2014).
    dtype: type of the products and of the hidden states; carries stay float32.
  """

  width: Annotated[int, AT_LEAST_ONE] = 256
  layers: Annotated[int, AT_LEAST_ONE] = 2
  dropout: Annotated[float, BELOW_ONE] = 0.0
  dtype: str = 'float32'

  cell: ClassVar[type[nn.RNNCellBase]]
  carried: ClassVar[int] = 1  # arrays in a carry
  hidden: ClassVar[tuple[str, ...]]  # the cell's products of the hidden state
  sequential = True
  embed_std = 1.0

  @staticmethod
  @abc.abstractmethod
  def affine(cell: Cell, x: Float[Array, '... width']) -> Float[Array, '... gates']:
    """The part of the gates that does not depend on the hidden state.

    Args:
      cell: the parameters of the layer.
      x: the inputs of the layer.

    Returns:
      The gates before their nonlinearity. Products of the hidden state are added to the first ones,
      in the order of `hidden`.
    """

  @staticmethod
  @abc.abstractmethod
  def step(gates: Float[Array, 'batch gates'], carry: Carry) -> Carry:
    """The next carry, from complete gates and the last carry."""

  def init_cache(self, batch: int, length: int) -> tuple[Carry, ...]:
    """The carry of each layer before the first position; it does not depend on the length."""
    del length
    return ((jnp.zeros((batch, self.width)),) * self.carried,) * self.layers

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

  kind: type[Recurrent]
  width: int
  dtype: str

  @nn.compact
  def __call__(
    self,
    carry: Carry,
    h: Float[Array, 'batch length width'],
    starts: Bool[Array, 'batch length'],
  ) -> tuple[Carry, Float[Array, 'batch length width']]:
    cell = self.param('cell', _init_cell, self.kind.cell, self.width)
    cell = jax.tree.map(lambda x: x.astype(self.dtype), cell)
    # The products of the inputs need no hidden state: one product for all positions.
    gates = self.kind.affine(cell, h).swapaxes(0, 1)
    kernel = joined(cell, self.kind.hidden, 'kernel')
    end, states = recurrence(self.kind.step, kernel, carry, gates, starts.swapaxes(0, 1))
    return end, states.swapaxes(0, 1)


def _init_cell(key: Array, cell: type[nn.RNNCellBase], width: int) -> Cell:
  """The parameters of a flax cell."""
  made = cell(width, parent=None)
  x = jnp.zeros((1, width))
  return made.init(key, made.initialize_carry(key, x.shape), x)['params']


def joined(cell: Cell, names: Sequence[str], leaf: str) -> Float[Array, '... gates']:
  """The kernels or biases of these products, side by side."""
  return jnp.concatenate([cell[name][leaf] for name in names], axis=-1)


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
  them. Differentiated by JAX, the loop would add an outer product to it at each position, which
  takes most of the time of a step.

  Args:
    step: see `Recurrent.step`.
    kernel: of the products of the hidden state, which are added to the first gates.
    carry: before the first position.
    gates: the part of the gates that does not depend on the hidden state.
    starts: whether the carry is reset to zero before a position.

  Returns:
    (the carry after the last position, the hidden states in the type of the gates).
  """
  return _run(step, kernel, carry, gates, starts)


def _run(step, kernel, carry, gates, starts):
  return jax.lax.scan(functools.partial(_position, step, kernel), carry, (gates, starts))


def _position(step, kernel, carry, inputs):
  gates, start = inputs
  carry = jax.tree.map(lambda x: jnp.where(start[:, None], 0, x), carry)
  product = carry[-1].astype(gates.dtype) @ kernel
  rest = gates.shape[1] - product.shape[1]
  gates = gates + jnp.pad(product, ((0, 0), (0, rest)))
  after = step(gates, tuple(x.astype(gates.dtype) for x in carry))
  # Carries stay float32: rounding to bfloat16 would add up over the sequence.
  return tuple(x.astype(jnp.float32) for x in after), after[-1].astype(gates.dtype)


def _forward(step, kernel, carry, gates, starts):
  results, back = jax.vjp(lambda c, g: _run(step, kernel, c, g, starts), carry, gates)
  return results, (back, kernel, carry[-1], results[1], starts)


def _backward(step, saved, cotangents):
  del step
  back, kernel, first, states, starts = saved
  to_carry, to_gates = back(cotangents)
  before = jnp.concatenate([first.astype(states.dtype)[None], states[:-1]])
  before = jnp.where(starts[..., None], 0, before)
  to_kernel = jnp.einsum('tbi,tbo->io', before, to_gates[..., : kernel.shape[1]])
  return to_kernel, to_carry, to_gates, None


recurrence.defvjp(_forward, _backward)


class RNN(Recurrent):
  """The plain recurrence h ← tanh(W·x + U·h + b) (Elman 1990)."""

  cell = nn.SimpleCell
  hidden = ('h',)
  embed_std = EMBED_STD  # larger inputs saturate the tanh, whose gradients then vanish sooner

  @staticmethod
  def affine(cell, x):
    return x @ cell['i']['kernel'] + cell['i']['bias']

  @staticmethod
  def step(gates, carry):
    return (jnp.tanh(gates),)


class LSTM(Recurrent):
  """Long short-term memory; the carry is the memory cell and the hidden state."""

  cell = nn.OptimizedLSTMCell
  carried = 2
  hidden = ('hi', 'hf', 'hg', 'ho')

  @staticmethod
  def affine(cell, x):
    return x @ joined(cell, ('ii', 'if', 'ig', 'io'), 'kernel') + joined(cell, LSTM.hidden, 'bias')

  @staticmethod
  def step(gates, carry):
    i, f, g, o = jnp.split(gates, 4, axis=-1)
    memory = jax.nn.sigmoid(f) * carry[0] + jax.nn.sigmoid(i) * jnp.tanh(g)
    return memory, jax.nn.sigmoid(o) * jnp.tanh(memory)


class GRU(Recurrent):
  """Gated recurrent units."""

  cell = nn.GRUCell
  hidden = ('hr', 'hz', 'hn')

  @staticmethod
  def affine(cell, x):
    inputs = ('ir', 'iz', 'in')
    from_x = x @ joined(cell, inputs, 'kernel') + joined(cell, inputs, 'bias')
    r, z, candidate = jnp.split(from_x, 3, axis=-1)
    # The candidate's product of the hidden state comes before its product of the input, because the
    # reset gate multiplies only the first one.
    bias = jnp.broadcast_to(cell['hn']['bias'], candidate.shape)
    return jnp.concatenate([r, z, bias, candidate], axis=-1)

  @staticmethod
  def step(gates, carry):
    r, z, from_hidden, from_input = jnp.split(gates, 4, axis=-1)
    z = jax.nn.sigmoid(z)
    candidate = jnp.tanh(from_input + jax.nn.sigmoid(r) * from_hidden)
    return ((1 - z) * candidate + z * carry[0],)
