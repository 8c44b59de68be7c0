"""A model that was trained on Shakespeare learns Python: bytes, so that the vocabulary is one.

python -m experiments.prepare_data --dataset=shakespeare --tokenizer=bytes
python -m experiments.train --config=configs/autoregressive/finetune_python.py:pretrain \\
  --workdir=runs/plays
python -m experiments.train --config=configs/autoregressive/finetune_python.py:full \\
  --config.finetune.source=runs/plays --workdir=runs/python
python -m experiments.evaluate --workdir=runs/python --on=shakespeare --metrics=bits_per_dim

Variants: pretrain (Shakespeare), full, frozen (embeddings stay), lora (rank 8), scratch (Python
from nothing, for comparison). The validation loss at step 0 is that before fine-tuning.

To expect, in bits per byte of the test split, after short runs (--config.train.steps=1000 for
pretrain, 500 for the others) on a 2-core CPU machine, 2026-11-25:

                        Shakespeare      Python
  pretrain            2.841 ± 0.004   6.959 ± 0.012
  full                3.978 ± 0.006   2.804 ± 0.006
  frozen              3.828 ± 0.005   3.142 ± 0.007
  lora                3.845 ± 0.005   3.254 ± 0.007
  scratch             4.522 ± 0.007   3.085 ± 0.006
"""

from ml_collections import ConfigDict

from configs.autoregressive import text

VARIANTS = {  # dataset, learning rate, other settings
  'pretrain': ('shakespeare', 1e-3, {}),
  'full': ('python_code', 5e-4, {}),
  'frozen': ('python_code', 5e-4, {'optimizer.frozen': '^(token_embed|network/position_embed)/'}),
  'lora': ('python_code', 3e-3, {'optimizer.frozen': '^base/', 'finetune.lora_rank': 8}),
  'scratch': ('python_code', 1e-3, {}),
}


def get_config(variant: str = 'full') -> ConfigDict:
  """The config of a variant, a key of VARIANTS."""
  if variant not in VARIANTS:
    raise ValueError(f'unknown variant {variant!r}; known: {", ".join(VARIANTS)}')
  name, learning_rate, others = VARIANTS[variant]
  config = text.get_config('shakespeare_char')
  config.data.update(name=name, tokenizer='bytes')
  config.optimizer.learning_rate = learning_rate
  config.train.update(steps='2000' if variant == 'pretrain' else '1000')
  config.update_from_flattened_dict(others)
  return config
