"""Networks of autoencoders."""

from common.baselines.vae.networks.conv import ConvAutoencoder
from common.baselines.vae.networks.transformer import TransformerAutoencoder

NETWORKS = {'conv': ConvAutoencoder, 'transformer': TransformerAutoencoder}
