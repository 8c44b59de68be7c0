"""Recurrent networks: tanh, LSTM (Hochreiter & Schmidhuber 1997) and GRU (Cho et al. 2014).

The cache holds the carries of the cells from one position to the next; it does not grow.
"""

from collections.abc import Callable
from typing import Annotated, Any, ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from autoregressive.networks.base import EMBED_STD, CausalNetwork
from common.ranges import AT_LEAST_ONE, BELOW_ONE


class Recurrent(CausalNetwork):
  """A stack of recurrent layers, whose flax cell a subclass sets as `cell`.

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

  cell: ClassVar[Callable[..., nn.RNNCellBase]]
  sequential = True
  embed_std = 1.0

  def init_cache(self, batch: int, length: int) -> tuple[Any, ...]:
    """The carry of each layer before the first position; it does not depend on the length."""
    del length
    cell = self.cell(self.width, dtype=self.dtype, parent=None)
    # Carries start at zero whatever the key.
    carry = cell.initialize_carry(jax.random.key(0), (batch, self.width))
    return (carry,) * self.layers

  @nn.compact
  def __call__(
    self,
    h: Float[Array, 'batch length width'],
    cache: tuple[Any, ...] | None = None,
    train: bool = False,
    segments: Int[Array, 'batch length'] | None = None,
  ) -> tuple[Float[Array, 'batch length width'], tuple[Any, ...] | None]:
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
    # A scan over positions, axis 1 of inputs and outputs, with the same parameters at each.
    layer = nn.scan(
      _Step, variable_broadcast='params', split_rngs={'params': False}, in_axes=1, out_axes=1
    )
    # Each layer runs over the whole part before the next one starts.
    carries = self.init_cache(h.shape[0], h.shape[1]) if cache is None else cache
    ends, h = [], drop(h.astype(self.dtype))
    for i, carry in enumerate(carries):
      end, h = layer(self.width, self.cell, self.dtype, name=f'layer_{i}')(carry, h, starts)
      ends.append(end)
      h = drop(h)
    return h, None if cache is None else tuple(ends)


class RNN(Recurrent):
  """The plain recurrence h ← tanh(W·x + U·h + b) (Elman 1990)."""

  cell = nn.SimpleCell
  embed_std = EMBED_STD  # larger inputs saturate the tanh, whose gradients then vanish sooner


class LSTM(Recurrent):
  """Long short-term memory."""

  cell = nn.OptimizedLSTMCell


class GRU(Recurrent):
  """Gated recurrent units."""

  cell = nn.GRUCell


class _Step(nn.Module):
  """One position of a layer, whose carry is reset at the start of a document."""

  width: int
  cell: Callable[..., nn.RNNCellBase]
  dtype: str

  @nn.compact
  def __call__(self, carry: Any, h: Float[Array, 'batch width'], starts: Bool[Array, 'batch']):
    carry = jax.tree.map(lambda x: jnp.where(starts[:, None], 0, x), carry)
    carry, h = self.cell(self.width, dtype=self.dtype, name='cell')(carry, h)
    # Carries stay float32: rounding to bfloat16 would add up over the sequence.
    return jax.tree.map(lambda x: x.astype(jnp.float32), carry), h.astype(self.dtype)
