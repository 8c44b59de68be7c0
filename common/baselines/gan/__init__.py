"""A generative adversarial network (Goodfellow et al. 2014) behind `Method`, as a baseline."""

from common.baselines.gan.discriminators import DISCRIMINATORS
from common.baselines.gan.generators import GENERATORS
from common.baselines.gan.losses import LOSSES
from common.baselines.gan.method import build
from common.baselines.gan.sampling import SamplingSettings, with_options
from common.finetuning import Source

# The constructors that a config can choose, by the path of its section.
COMPONENTS = {
  'generator': GENERATORS,
  'discriminator': DISCRIMINATORS,
  'objective.loss': LOSSES,
}
# Sections without a name: their settings are the arguments of one constructor.
SECTIONS = {'finetune': Source, 'sampling': SamplingSettings}
# The constructors' arguments that come from the data and are not settings.
GIVEN = {
  'generator': ('shape', 'num_classes', 'bounded', 'dtype'),
  'discriminator': ('num_classes', 'dtype'),
}

__all__ = ['COMPONENTS', 'GIVEN', 'SECTIONS', 'build', 'with_options']
