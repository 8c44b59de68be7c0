"""Fine-tuning: a run that starts from the weights of another run, or from published ones.

  full     every parameter is trained
  frozen   parameters whose path matches `optimizer.frozen` are not trained
  lora     only low-rank updates of matrices are trained (Hu et al. 2021): W + (alpha / rank)·A·B,
           with A random and B zero at first, so training starts at the weights of the source;
           only for the autoregressive family
  fresh    parameters whose path matches `finetune.fresh` (a new head, say) keep their random
           initial values

`initial_params` copies the parameters of a source into a new model; `LoRA` makes a Method
with low-rank updates from any other, whose parameters are {'base': ..., 'lora': ...}; `merge` adds
the updates to the base.
"""

from common.finetuning.lora import LoRA, init_lora, merge, plain
from common.finetuning.settings import Finetune, Source, build_finetune
from common.finetuning.sources import (
  Weights,
  adopt,
  initial_params,
  open_checkpoints,
  read_run,
  read_source,
  refer_to_base,
)

__all__ = [
  'Finetune',
  'LoRA',
  'Source',
  'Weights',
  'adopt',
  'build_finetune',
  'init_lora',
  'initial_params',
  'merge',
  'open_checkpoints',
  'plain',
  'read_run',
  'read_source',
  'refer_to_base',
]
