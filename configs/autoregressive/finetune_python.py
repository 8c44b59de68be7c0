"""Fine-tunes a model of Shakespeare on Python, in bytes, so that both have the same vocabulary.

twofold prepare_data --dataset=shakespeare --tokenizer=bytes
twofold train --config=configs/autoregressive/finetune_python.py:pretrain \\
  --workdir=runs/plays
twofold train --config=configs/autoregressive/finetune_python.py:full \\
  --config.finetune.source=runs/plays --workdir=runs/python
twofold evaluate --workdir=runs/python --on=shakespeare --metrics=bits_per_dim

Variants: pretrain (Shakespeare), full, frozen (embeddings are not trained), lora (rank 8), scratch
(Python from random parameters, for comparison). The validation loss at step 0 is that of
pretrain.

Reproduces: nothing published; our own settings.

To expect, in bits per byte on the test split (± half of a 95 % interval), after short runs
(--config.train.steps=1000 for pretrain, 500 for the others) on a 2-core CPU machine, 2026-11-25:

                        Shakespeare      Python
  pretrain            2.841 ± 0.008   6.959 ± 0.024
  full                3.978 ± 0.012   2.804 ± 0.012
  frozen              3.828 ± 0.010   3.142 ± 0.014
  lora                3.845 ± 0.010   3.254 ± 0.014
  scratch             4.522 ± 0.014   3.085 ± 0.012
"""

from ml_collections import ConfigDict

from common.config import merge, pick
from configs.autoregressive import text

PYTHON = dict(
  data=dict(name='python_code'), optimizer=dict(learning_rate=5e-4), train=dict(steps='1000')
)

VARIANTS = {
  'pretrain': dict(
    data=dict(name='shakespeare'), optimizer=dict(learning_rate=1e-3), train=dict(steps='2000')
  ),
  'full': PYTHON,
  'frozen': merge(PYTHON, dict(optimizer=dict(frozen='^(token_embed|network/position_embed)/'))),
  'lora': merge(
    PYTHON,
    dict(optimizer=dict(learning_rate=3e-3, frozen='^base/'), finetune=dict(lora_rank=8)),
  ),
  'scratch': merge(PYTHON, dict(optimizer=dict(learning_rate=1e-3))),
}


def get_config(variant: str = 'full') -> ConfigDict:
  """The config of a variant, a key of VARIANTS."""
  base = merge(text.get_config('shakespeare_char'), dict(data=dict(tokenizer='bytes')))
  return ConfigDict(merge(base, pick(VARIANTS, variant, 'variant')))
