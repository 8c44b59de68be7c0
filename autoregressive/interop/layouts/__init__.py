"""The public layouts, by the name that `config.json` has for them."""

from collections.abc import Mapping

from autoregressive.interop.layouts.base import Layout
from autoregressive.interop.layouts.gpt2 import GPT2
from autoregressive.interop.layouts.llama import LLAMA, MISTRAL, QWEN2, QWEN3
from autoregressive.interop.layouts.phi3 import PHI3
from autoregressive.networks.transformer import Transformer

LAYOUTS: Mapping[str, Layout] = {
  'gpt2': GPT2,
  'llama': LLAMA,
  'mistral': MISTRAL,
  'qwen2': QWEN2,
  'qwen3': QWEN3,
  'phi3': PHI3,
}


def kind_of(network: Transformer, preferred: str = '') -> str:
  """The layout of a network: the preferred one if it fits, or else the first that does.

  If none fits, Llama for rotary positions and otherwise GPT-2, whose refusal names the setting.
  """
  fitting = [kind for kind, layout in LAYOUTS.items() if misfit(network, layout) is None]
  if preferred in fitting or not fitting:
    return preferred or ('llama' if network.positions == 'rotary' else 'gpt2')
  return fitting[0]


def misfit(network: Transformer, layout: Layout) -> str | None:
  """The first setting of a network that a layout does not have, or None."""
  values = vars(network)
  return next((name for name, value in layout.fixed.items() if values[name] != value), None)
