"""Fine-tunes a language model on your own text; network and tokenizer are those of the source.

twofold convert --read=SmolLM2.gguf --workdir=runs/smollm2
twofold train --config=configs/autoregressive/finetune.py:lora --workdir=runs/mine \\
  --config.finetune.source=runs/smollm2 --config.data.source=MY.txt
twofold sample --workdir=runs/mine --prompt="Once"

Variants: full (all parameters), lora (low-rank updates of rank 8; checkpoints hold the updates
alone). The source is the WORKDIR of any run on text, or published weights (docs/weights.md).

Reproduces: nothing published; our own settings.

To expect: docs/weights.md has a run of `lora` on SmolLM2.
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
  'full': {},
  'lora': dict(
    optimizer=dict(learning_rate=1e-3, frozen='^base/'),
    finetune=dict(lora_rank=8, lora_alpha=16.0, lora_paths='/(qkv|out|gate|up|down)/kernel$'),
  ),
}


def get_config(variant: str = 'lora') -> ConfigDict:
  """The config of a variant, a key of VARIANTS."""
  return ConfigDict(merge(get_base(), COMMON, pick(VARIANTS, variant, 'variant')))
