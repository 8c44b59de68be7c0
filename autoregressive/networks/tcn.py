"""A temporal convolutional network: stacked dilated causal convolutions (Bai et al. 2018)."""

from typing import Annotated, NamedTuple

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from autoregressive.networks.base import CausalNetwork
from common.ranges import AT_LEAST_ONE, BELOW_ONE, Interval


class TCNCache(NamedTuple):
  """The cache of a TCN: positions seen, and the last inputs of each convolution.

  Each ring holds as many positions as its convolution reaches back; position t is in slot
  t mod size. Before the first position, inputs are zero.
  """

  index: Int[Array, '']
  rings: tuple[Float[Array, 'batch size width'], ...]


class TCN(CausalNetwork):
  """Residual blocks of two dilated causal convolutions each; block i has dilation growth^i.

  Bai et al. 2018, section 3 and figure 1: weight normalisation, ReLU and dropout of whole
  channels after each convolution, a ReLU after the residual connection. Position i sees the last
  1 + 2·(kernel - 1)·Σ growth^i inputs.

  A gated linear unit (Dauphin et al. 2017) in place of the ReLU after each convolution is that of
  table 5: a·σ(b), from convolutions with twice the channels.

  Attributes:
    width: channels of every layer.
    layers: residual blocks.
    kernel: taps of a convolution, 2 or more.
    growth: factor from one block's dilation to the next.
    dropout: rate of dropped channels.
    drop_channels: whether dropout is of whole channels, as the paper says, or of single numbers, as
      in its code.
    weight_norm: whether kernels are split into direction and length (Salimans & Kingma 2016).
    gated: whether a gated linear unit follows each convolution.
    dtype: type of the products and of the residual stream.

  Raises:
    ConfigError: for a kernel of fewer than two taps or a growth below one.
  """

  width: Annotated[int, AT_LEAST_ONE] = 256
  layers: Annotated[int, AT_LEAST_ONE] = 6
  kernel: Annotated[int, Interval(2)] = 3
  growth: Annotated[int, AT_LEAST_ONE] = 2
  dropout: Annotated[float, BELOW_ONE] = 0.0
  drop_channels: bool = True
  weight_norm: bool = True
  gated: bool = False
  dtype: str = 'float32'

  embed_std = 1.0

  @property
  def dilations(self) -> tuple[int, ...]:
    """The dilation of each convolution, two to a block."""
    return tuple(self.growth ** (i // 2) for i in range(2 * self.layers))

  def init_cache(self, batch: int, length: int) -> TCNCache:
    """An empty cache; its size depends on the receptive field, not on the length."""
    del length
    # A kernel of k taps, `dilation` apart, reaches (k - 1)·dilation positions back.
    sizes = [(self.kernel - 1) * dilation for dilation in self.dilations]
    rings = tuple(jnp.zeros((batch, size, self.width), self.dtype) for size in sizes)
    return TCNCache(jnp.zeros((), jnp.int32), rings)

  @nn.compact
  def __call__(
    self,
    h: Float[Array, 'batch length width'],
    cache: TCNCache | None = None,
    train: bool = False,
    segments: Int[Array, 'batch length'] | None = None,
  ) -> tuple[Float[Array, 'batch length width'], TCNCache | None]:
    """Runs the network on a whole sequence, or on the next part of one.

    Args:
      h: embedded inputs.
      cache: state after the previous parts, from `init_cache` or an earlier call; None: h is a
        whole sequence.
      train: whether dropout is on; it needs the random stream 'dropout'.
      segments: number of the document that each position belongs to; no tap reaches into another
        document. Not with a cache.

    Returns:
      Hidden states, and the cache with this part added (None without).
    """
    # Of whole channels, one mask holds for all positions: it is broadcast over the length.
    axes = (1,) if self.drop_channels else ()
    drop = nn.Dropout(self.dropout, broadcast_dims=axes, deterministic=not train)
    h = residual = h.astype(self.dtype)
    rings = []
    for i, dilation in enumerate(self.dilations):
      if cache is None:
        taps = _taps(h, self.kernel, dilation, segments)
      else:
        taps, ring = _cached_taps(h, self.kernel, dilation, cache.rings[i], cache.index)
        rings.append(ring)
      channels = (1 + self.gated) * self.width
      dense = nn.Dense(channels, dtype=self.dtype, kernel_init=nn.initializers.he_normal())
      convolve = nn.WeightNorm(dense) if self.weight_norm else dense
      activate = nn.glu if self.gated else nn.relu
      h = drop(activate(convolve(taps)))
      if i % 2:  # the second convolution of a block ends it
        h = residual = nn.relu(h + residual)
    return h, None if cache is None else TCNCache(cache.index + h.shape[1], tuple(rings))


def _taps(h, kernel, dilation, segments):
  """The inputs of each position's taps in a row, oldest first: [batch, length, kernel·width].

  The convolution is then one matrix product with them.
  """
  length, taps = h.shape[1], []
  for back in (j * dilation for j in range(kernel - 1, -1, -1)):
    # Padding only on the left keeps the convolution causal: tap[:, t] is h[:, t - back].
    tap = jnp.pad(h, ((0, 0), (back, 0), (0, 0)))[:, :length]
    if segments is not None:  # a tap in another document is 0, as before the first position
      tap_segments = jnp.pad(segments, ((0, 0), (back, 0)), constant_values=-1)[:, :length]
      tap = jnp.where((tap_segments == segments)[..., None], tap, 0)
    taps.append(tap)
  return jnp.concatenate(taps, -1)


def _cached_taps(h, kernel, dilation, ring, index):
  """`_taps` of the next part of a sequence, and the ring with this part written to it."""
  batch, length, _ = h.shape
  size = ring.shape[1]
  steps, backs = index + jnp.arange(length), dilation * jnp.arange(kernel - 1, 0, -1)
  wanted = steps[:, None] - backs  # [length, kernel - 1]: the positions of the taps
  source, where = ring, wanted % size
  if length > dilation:  # some taps fall into this part itself, which is appended to the ring
    source = jnp.concatenate([ring, h], 1)
    # Position `index` is the first of this part.
    where = jnp.where(wanted >= index, size + wanted - index, where)
  # The newest tap is the input itself, and comes last, as in `_taps`.
  taps = jnp.take(source, where, axis=1).reshape(batch, length, -1)
  # If the part is longer than the ring, only its last inputs stay in the ring.
  last = min(length, size)
  ring = ring.at[:, steps[-last:] % size].set(h[:, -last:])
  return jnp.concatenate([taps, h], -1), ring
