"""Score-based diffusion. `build` turns a config and a description of the data into a `Method`."""

from common.finetuning import Source
from diffusion.likelihood import LIKELIHOODS
from diffusion.networks import CLASSIFIERS, NETWORKS
from diffusion.objectives import TIME_DISTRIBUTIONS, WEIGHTINGS
from diffusion.processes import PROCESSES
from diffusion.sampling.driver import SAMPLERS
from diffusion.sampling.grids import GRIDS
from diffusion.sampling.settings import with_options
from diffusion.windows import build

# The constructors that a config can choose, by the path of its section.
COMPONENTS = {
  'process': PROCESSES,
  'network': NETWORKS,
  'classifier.network': {**NETWORKS, **CLASSIFIERS},
  'objective.weighting': WEIGHTINGS,
  'objective.times': TIME_DISTRIBUTIONS,
  'sampling.sampler': SAMPLERS,
  'sampling.grid': GRIDS,
  'likelihood': LIKELIHOODS,
}
# Sections without a name: their settings are the arguments of one constructor.
SECTIONS = {'finetune': Source}
# The constructors' arguments that come from the data and are not settings.
GIVEN = dict.fromkeys(('network', 'classifier.network'), ('out_channels', 'num_classes', 'dtype'))

__all__ = ['COMPONENTS', 'GIVEN', 'SECTIONS', 'build', 'with_options']
