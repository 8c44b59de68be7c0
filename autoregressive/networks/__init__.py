"""Causal networks: embedded sequence in, hidden states out.

Every network here is a flax module with

  __call__(h [batch, length, width], cache=None, train=False, segments=None) -> hidden, cache
  init_cache(batch, length) -> an empty cache with room for `length` positions
  rewind(cache, back), where a cache can be wound back: what speculative decoding needs
  sequential, where it cannot: whether several inputs are taken one by one all the same
  output_scale, where what is made from its hidden states is scaled
  longest, where a sequence can be too long
  width: of its inputs; `hidden_width` where that of its outputs differs

and hidden[:, i] depends on h[:, <= i] alone. With a cache, h is the next part of a sequence, of
any length; the batch is the leading axis of every array in it but scalars. h[:, 0] is the start
token, which carries the class (see autoregressive/model.py).
"""

from collections.abc import Callable, Mapping

import flax.linen as nn

from autoregressive.networks.pixelcnn import GatedPixelCNN, PixelCNN
from autoregressive.networks.pixelcnn_pp import PixelCNNPlusPlus
from autoregressive.networks.rnn import GRU, LSTM
from autoregressive.networks.tcn import TCN
from autoregressive.networks.transformer import Transformer
from common.config import component

NETWORKS: Mapping[str, Callable] = {
  'transformer': Transformer,
  'lstm': LSTM,
  'gru': GRU,
  'tcn': TCN,
  'pixelcnn': PixelCNN,
  'gated_pixelcnn': GatedPixelCNN,
  'pixelcnn_pp': PixelCNNPlusPlus,
}


def build_network(settings: Mapping, ordering, length: int) -> nn.Module:
  """The network that a config's `network` section names, for `length` inputs of an ordering."""
  given = {'length': length, 'grid': getattr(ordering, 'grid', None)}
  return component(NETWORKS, settings, 'network', offer=given)
