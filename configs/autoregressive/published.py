"""A language model from published weights: read into a run, and fine-tuned on your own text.

twofold convert --read=SmolLM2.gguf --workdir=runs/smollm2
twofold train --config=configs/autoregressive/published.py:lora --workdir=runs/mine \\
  --config.finetune.source=runs/smollm2 --config.data.source=MY.txt
twofold sample --workdir=runs/mine --prompt="Once upon a time"

The weights, a GGUF file or a folder as `transformers` writes it, bring their network, head,
tokenizer and chat template (docs/weights.md); everything else comes from here. Variants for
`convert --read`: none (its default: no data) and file (your own text, to evaluate on). Variants for
training: full (all parameters) and lora (low-rank updates of rank 8, which checkpoints hold alone).

Reproduces: the outputs of `transformers` on the same weights (docs/weights.md).

To expect: docs/weights.md has the measured times and sizes.
"""

from ml_collections import ConfigDict

from common.config import merge, pick
from configs.autoregressive.base import get_base

COMMON = dict(
  data=dict(name='text', tokenizer='files', context=128, batch_size=8),
  ordering=dict(name='tokens'),
  optimizer=dict(learning_rate=1e-4, weight_decay=0.0, b2=0.95),
  ema=dict(decay=0.0, warmup=False),
  train=dict(steps='200', steps_per_call=10, sample_every='0'),
  evaluation=dict(batch_size=8),
)

VARIANTS = {
  'none': dict(data=dict(name='none')),
  'file': dict(data=dict(context=512)),
  'full': {},
  'lora': dict(
    optimizer=dict(learning_rate=1e-3, frozen='^base/'),
    finetune=dict(lora_rank=8, lora_alpha=16.0, lora_paths='/(qkv|out|gate|up|down)/kernel$'),
  ),
}


def get_config(variant: str = 'none') -> ConfigDict:
  """The config of a variant, a key of VARIANTS."""
  return ConfigDict(merge(get_base(), COMMON, pick(VARIANTS, variant, 'variant')))
