"""Fine-tunes a language model on your own dialogues; it learns the answers alone.

twofold convert --read=SmolLM2.gguf --workdir=runs/smollm2
twofold train --config=configs/autoregressive/dialogues.py:lora --workdir=runs/mine \\
  --config.finetune.source=runs/smollm2 --config.data.source=MY.jsonl
twofold chat --workdir=runs/mine

Variants: lora (low-rank updates of rank 8; checkpoints hold the updates alone), lora_bf16 (its
products in bfloat16), full (all parameters). A line of MY.jsonl is a dialogue (docs/chat.md). The
tokenizer and the chat template are those of the source; short dialogues share a window, and none
sees another.

Reproduces: nothing published; our own settings.

To expect: docs/finetuning.md has lora_bf16 on the comedies of Shakespeare.
"""

from ml_collections import ConfigDict

from common.config import merge, pick
from configs.autoregressive import published

DIALOGUES = dict(data=dict(name='dialogues', context=512), objective=dict(documents=True))

VARIANTS = {
  'lora': {},
  'lora_bf16': dict(precision='bfloat16'),
  'full': {},
}


def get_config(variant: str = 'lora') -> ConfigDict:
  """The config of a variant, a key of VARIANTS."""
  changes = merge(DIALOGUES, pick(VARIANTS, variant, 'variant'))
  return ConfigDict(merge(published.get_config('full' if variant == 'full' else 'lora'), changes))
