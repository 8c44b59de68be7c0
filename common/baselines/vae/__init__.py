"""Variational autoencoders and VQ-VAEs; they are also first stages of models of latents."""

from common.baselines.vae.latents import LATENTS
from common.baselines.vae.method import LIKELIHOODS, Objective, build
from common.baselines.vae.networks import NETWORKS
from common.baselines.vae.pixels import PIXELS
from common.baselines.vae.sampling import SamplingSettings, with_options
from common.finetuning import Source

# The constructors that a config can choose, by the path of its section.
COMPONENTS = {
  'network': NETWORKS,
  'latent': LATENTS,
  'pixels': PIXELS,
  'likelihood': LIKELIHOODS,
}
# Sections without a name: their settings are the arguments of one constructor.
SECTIONS = {'objective': Objective, 'finetune': Source, 'sampling': SamplingSettings}
# The constructors' arguments that come from the data and are not settings.
GIVEN = {'network': ('out_channels', 'features', 'num_classes', 'dtype')}

__all__ = ['COMPONENTS', 'GIVEN', 'SECTIONS', 'build', 'with_options']
