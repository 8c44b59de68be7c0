"""Published autoencoders give the numbers of diffusers, or are refused in one line."""

import jax
import numpy as np
import pytest

from common.baselines.vae import weights

TINY = dict(
  block_out_channels=(32, 64),
  layers_per_block=2,
  norm_num_groups=8,
  latent_channels=4,
)
LEVELS = {
  'kl': TINY,
  'no_quant_conv': TINY
  | dict(
    use_quant_conv=False,
    use_post_quant_conv=False,
    latent_channels=16,
    scaling_factor=0.3611,
    shift_factor=0.1159,
  ),
  'no_attention': TINY | dict(mid_block_add_attention=False, in_channels=1, out_channels=1),
  # Stable Diffusion's, an eighth as wide.
  'four_levels': TINY | dict(block_out_channels=(16, 32, 64, 64), norm_num_groups=4),
}


def published(kind, folder, **settings):
  """A model of diffusers with random parameters, also of norms and biases, and its folder."""
  import torch
  from diffusers import AutoencoderKL, VQModel

  torch.manual_seed(0)
  number = len(settings['block_out_channels'])
  model = {'AutoencoderKL': AutoencoderKL, 'VQModel': VQModel}[kind](
    down_block_types=('DownEncoderBlock2D',) * number,
    up_block_types=('UpDecoderBlock2D',) * number,
    **settings,
  )
  with torch.no_grad():
    for x in model.parameters():
      if x.ndim == 1:
        x.add_(0.1 * torch.randn_like(x))
  model.save_pretrained(folder)
  return model


def images(shape, seed=0):
  return np.random.default_rng(seed).uniform(-1, 1, shape).astype(np.float32)


def to_torch(x):
  import torch

  return torch.from_numpy(np.asarray(x).transpose(0, 3, 1, 2).copy())


def from_torch(x):
  return x.detach().numpy().transpose(0, 2, 3, 1)


def apply(made, x, method):
  run = jax.jit(lambda params, x: made.network().apply({'params': params}, x, method=method))
  return np.asarray(run(made.params, x))


def num_parameters(params):
  return sum(x.size for x in jax.tree.leaves(params))


@pytest.mark.peers
@pytest.mark.parametrize('name', LEVELS)
def test_an_autoencoder_kl_computes_the_same(name, tmp_path):
  settings = LEVELS[name]
  model = published('AutoencoderKL', tmp_path, **settings)
  made = weights.read(tmp_path)
  assert num_parameters(made.params) == sum(x.numel() for x in model.parameters())
  assert made.scaling_factor == model.config.scaling_factor
  assert made.shift_factor == (model.config.shift_factor or 0.0)
  channels, latent_channels = settings.get('in_channels', 3), settings['latent_channels']
  for height, width in ((32, 32), (16, 48)):
    x = images((2, height, width, channels))
    posterior = model.encode(to_torch(x)).latent_dist
    mean, log_variance = np.split(apply(made, x, 'encode'), 2, -1)
    np.testing.assert_allclose(mean, from_torch(posterior.mean), atol=1e-5)
    np.testing.assert_allclose(log_variance, from_torch(posterior.logvar), atol=1e-5)
    z = images((2, *made.network().grid(height, width), latent_channels), seed=1)
    expected = from_torch(model.decode(to_torch(z)).sample)
    np.testing.assert_allclose(apply(made, z, 'decode'), expected, atol=1e-5)
