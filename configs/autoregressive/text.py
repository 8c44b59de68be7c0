"""A causal transformer over the characters, bytes or byte pairs of a text.

twofold train --config=configs/autoregressive/text.py:shakespeare_char \\
  --workdir=runs/shakespeare

  twofold prepare_data --dataset=shakespeare   (once)
  twofold sample --workdir=runs/shakespeare --prompt="ROMEO" --length=300

Reproduces: nothing published; `shakespeare_char` has the sizes of nanoGPT's small model for a CPU,
on another text (configs/papers/nanogpt.py has that repository's runs), and the same curve as
PyTorch (docs/shakespeare.md). The others are our own settings.

To expect on a 2-core CPU machine (2026-11-22):

  shakespeare_char  806,528 parameters; validation loss 1.780 nats per character, 2.567 bits
                    (docs/shakespeare.md)
  the others        not measured yet
"""

from ml_collections import ConfigDict

from common.config import merge, pick
from configs.autoregressive.base import get_base

COMMON = dict(
  data=dict(tokenizer='characters', context=64, batch_size=12),
  ordering=dict(name='tokens'),
  network=dict(width=128, layers=4, heads=4, bias=False),
  model=dict(start='none', tied=True),
  optimizer=dict(final=0.1, weight_decay=0.1),
  ema=dict(decay=0.0, warmup=False),  # no average, as in nanoGPT
)

VARIANTS = {
  'shakespeare_char': dict(data=dict(name='shakespeare')),
  'shakespeare_bpe': dict(data=dict(name='shakespeare', tokenizer='bpe')),
  'python_bytes': dict(data=dict(name='python_code', tokenizer='bytes')),
  'file': dict(data=dict(name='text', tokenizer='bytes')),
}


def get_config(variant: str = 'shakespeare_char') -> ConfigDict:
  """The config of a variant, a key of VARIANTS."""
  return ConfigDict(merge(get_base(), COMMON, pick(VARIANTS, variant, 'variant')))
