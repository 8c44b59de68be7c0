"""Causal networks: embedded sequence in, hidden states out.

They all derive from `base.CausalNetwork`, which documents their members.
"""

from collections.abc import Callable, Mapping

from autoregressive.networks.base import EMBED_STD, CausalNetwork
from autoregressive.networks.nbeats import InterpretableNBeats, NBeats
from autoregressive.networks.pixelcnn import GatedPixelCNN, PixelCNN
from autoregressive.networks.pixelcnn_pp import PixelCNNPlusPlus
from autoregressive.networks.rnn import GRU, LSTM, RNN
from autoregressive.networks.tcn import TCN
from autoregressive.networks.transformer import Transformer
from common.config import component

NETWORKS: Mapping[str, Callable[..., CausalNetwork]] = {
  'transformer': Transformer,
  'rnn': RNN,
  'lstm': LSTM,
  'gru': GRU,
  'tcn': TCN,
  'nbeats': NBeats,
  'nbeats_interpretable': InterpretableNBeats,
  'pixelcnn': PixelCNN,
  'gated_pixelcnn': GatedPixelCNN,
  'pixelcnn_pp': PixelCNNPlusPlus,
}


def build_network(settings: Mapping, ordering, head, length: int, dtype: str) -> CausalNetwork:
  """The network that a config's `network` section names, for `length` inputs of an ordering."""
  given = {
    'length': length,
    'grid': ordering.grid,
    'dtype': dtype,
    'lookback': ordering.features if ordering.context else 0,
    'horizon': ordering.values,
    'outputs': head.size // ordering.values,
    # Numbers enter at about unit scale, through a linear map.
    'input_std': EMBED_STD if head.rows else 1.0,
  }
  return component(NETWORKS, settings, 'network', **given)
