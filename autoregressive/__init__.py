"""Causal autoregression. `build` turns a config and a description of the data into a `Method`."""

from autoregressive.decoding.settings import DecodingSettings, with_options
from autoregressive.heads import HEADS
from autoregressive.method import arrange, build, build_draft
from autoregressive.model import Model
from autoregressive.networks import NETWORKS
from autoregressive.objectives import Objective
from autoregressive.orderings import ORDERINGS
from common.finetuning import Finetune

# The constructors whose names and settings a config may choose, by the path of its section.
COMPONENTS = {'ordering': ORDERINGS, 'network': NETWORKS, 'head': HEADS}
# Sections without a name: their settings are the arguments of one constructor.
SECTIONS = {
  'model': Model,
  'objective': Objective,
  'finetune': Finetune,
  'sampling': DecodingSettings,
}
# Arguments that come from the data or from another component, and are not settings.
GIVEN = {
  'ordering': ('spec', 'centred', 'relative'),
  'network': ('length', 'grid', 'dtype', 'lookback', 'horizon', 'outputs', 'input_std'),
  'head': ('values', 'vocabulary'),
  'model': ('network', 'head', 'values', 'rows', 'num_classes', 'features', 'categories'),
}

__all__ = [
  'COMPONENTS',
  'GIVEN',
  'SECTIONS',
  'arrange',
  'build',
  'build_draft',
  'with_options',
]
