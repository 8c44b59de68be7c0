"""A language model from published weights: a GGUF file, or a folder as `transformers` writes it.

twofold convert --read=FILE.gguf --workdir=runs/smollm2
twofold sample --workdir=runs/smollm2 --prompt="Once upon a time"

This is the default --config of `convert --read`. The weights bring their network, head, tokenizer
and chat template (docs/weights.md); everything else comes from here. Variants: none (no data), file
(your own text, in windows of 512 tokens of the weights' tokenizer, to evaluate and fine-tune on):

twofold convert --read=FILE.gguf --workdir=runs/smollm2 \\
  --config=configs/autoregressive/published.py:file --config.data.source=MY.txt

Reproduces: the outputs of `transformers` on the same weights (docs/weights.md).

To expect: docs/weights.md has the measured times.
"""

from ml_collections import ConfigDict

from common.config import merge, pick
from configs.autoregressive.base import get_base

COMMON = dict(
  data=dict(tokenizer='files', batch_size=8),
  ordering=dict(name='tokens'),
  model=dict(start='none'),
  evaluation=dict(batch_size=8),
)

VARIANTS = {
  'none': dict(data=dict(name='none')),
  'file': dict(data=dict(name='text', context=512)),
}


def get_config(variant: str = 'none') -> ConfigDict:
  """The config of a variant, a key of VARIANTS."""
  return ConfigDict(merge(get_base(), COMMON, pick(VARIANTS, variant, 'variant')))
