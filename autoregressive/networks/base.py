"""The interface of causal networks: embedded sequence in, hidden states out."""

import functools
from typing import Any

import flax.linen as nn
import jax
from jaxtyping import Array, Float, Int

from common.trees import path_name

EMBED_STD = 0.02  # the deviation of embeddings at first (Radford et al. 2019)


class CausalNetwork(nn.Module):
  """A network whose hidden[:, i] depends only on h[:, <= i].

  h[:, 0] is the start token, which carries the class (see autoregressive/model.py). With a cache,
  h is the next part of a sequence, of any length. The batch is the leading axis of every array in
  a cache, except for scalars.

  Every subclass has two flax fields: `width`, the width of its inputs and hidden states, and
  `dtype`, the type of its products and of the residual stream (docs/precision.md). The members
  below are plain class attributes or properties, not flax fields; their defaults are neutral.

  Attributes:
    sequential: whether the network processes inputs one after the other even if it gets several at
      once, so that larger parts are no faster.
    can_rewind: whether `rewind` works, which speculative decoding needs.
    max_length: the longest sequence that the network can take; None: any.
    longest: the longest sequence that it was made for; 0: that of the data.
    output_scale: factor of the outputs that are projected from the hidden states.
    grid: (rows, columns) of a network over images; None for any other network.
    init_examples: training examples that initial parameters are fitted to; 0: none.
    embed_std: the deviation of untied embeddings at first. Small ones drown in a network without a
      norm at its inputs.
    direct: whether inputs are the covariates of an emission as they are, and hidden states the
      outputs for the head: the model then has no parameters of its own.
  """

  sequential = False
  can_rewind = False
  max_length = None
  longest = 0
  output_scale = 1.0
  grid = None
  init_examples = 0
  embed_std = EMBED_STD
  direct = False

  def __call__(
    self,
    h: Float[Array, 'batch length width'],
    cache: Any = None,
    train: bool = False,
    segments: Int[Array, 'batch length'] | None = None,
  ) -> tuple[Float[Array, 'batch length width'], Any]:
    """Runs the network on a whole sequence, or on the next part of one.

    Args:
      h: embedded inputs.
      cache: state after the previous parts, from `init_cache` or an earlier call; None: h is a
        whole sequence.
      train: whether dropout is on; it needs the random stream 'dropout'.
      segments: number of the document that each position belongs to, if several documents are
        packed into a sequence; a position sees only its own document. Not with a cache.

    Returns:
      Hidden states in `dtype`, and the cache with this part added (None without a cache).
    """
    raise NotImplementedError

  def init_cache(self, batch: int, length: int) -> Any:
    """An empty cache with room for `length` positions of `batch` sequences."""
    raise NotImplementedError

  def rewind(self, cache: Any, back: Int[Array, '']) -> Any:
    """The cache without its last `back` positions, which the next call overwrites."""
    raise NotImplementedError(f'the cache of {type(self).__name__} cannot be rewound')

  def unroll(self, params: Any) -> tuple['CausalNetwork', Any]:
    """The same network and its parameters, with one parameter tree per layer.

    Decoding uses this form: a scan over stacked layers would copy the whole cache at each token.
    """
    return self, params

  def cast(self, params: Any) -> Any:
    """The same parameters, where the network casts them to `dtype` before each use, in this type.

    Decoding casts them once and not at each token.
    """
    return params


def cast_kernels(params: Any, dtype: Any) -> Any:
  """Parameters with the kernels of dense layers in another type, and all others as they are."""
  return jax.tree_util.tree_map_with_path(functools.partial(_cast_kernel, dtype), params)


def _cast_kernel(dtype: Any, path, x: Array) -> Array:
  return x.astype(dtype) if path_name(path).endswith('/kernel') else x
