"""The section `finetune` of a config."""

import dataclasses
import re
from collections.abc import Mapping
from typing import Annotated, ClassVar

from common.config import ConfigError, component
from common.ranges import ABOVE_ZERO, PATH, PATTERN, ZERO_IS_OFF


@dataclasses.dataclass(frozen=True)
class Source:
  """What training starts from, and which parameters it changes.

  Attributes:
    source: WORKDIR of a run, or (autoregressive) a folder of published weights; empty: random
      initial weights.
    step: checkpoint of that run: 'last', 'best' or a step number.
    fresh: regular expression; parameters whose path matches are not copied from the source; empty:
      copy all.
  """

  lora_rank: ClassVar[int] = 0

  source: Annotated[str, PATH] = ''
  step: str = 'last'
  fresh: Annotated[str, PATTERN] = ''


@dataclasses.dataclass(frozen=True)
class Finetune(Source):
  """The `finetune` section of a config of a family with low-rank updates.

  Attributes:
    lora_rank: rank of the updates; 0: no LoRA.
    lora_alpha: updates are scaled by alpha / rank.
    lora_paths: regular expression for the paths of the matrices that get updates.
  """

  lora_rank: Annotated[int, ZERO_IS_OFF] = 0
  lora_alpha: Annotated[float, ABOVE_ZERO] = 16.0
  lora_paths: Annotated[str, PATTERN] = r'(qkv|out|output_proj|gate|up|down)/kernel$'

  @property
  def scale(self) -> float:
    """The factor of A·B."""
    return self.lora_alpha / self.lora_rank


def build_finetune(config: Mapping) -> Finetune:
  """The `finetune` section of a config.

  Raises:
    ConfigError: for a setting that is unknown or out of range, or for LoRA over a base that the
      optimiser would change (weight decay acts without a gradient too).
  """
  # `component` takes a named table; this section has one entry.
  settings = dict(config.get('finetune') or {}) | {'name': 'finetune'}
  finetune = component({'finetune': Finetune}, settings, 'finetune')
  # '$.' matches nothing: without optimizer.frozen no parameter is frozen.
  if finetune.lora_rank and not re.search(config['optimizer'].get('frozen') or '$.', 'base/'):
    raise ConfigError(
      f'finetune.lora_rank={finetune.lora_rank} trains only the updates, so the base must be '
      "frozen: set optimizer.frozen='^base/'"
    )
  return finetune
