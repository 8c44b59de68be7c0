"""First stages: published weights encode and decode as their authors' code does."""

import jax
import numpy as np
import pytest

from common.baselines.vae import first_stage
from common.config import ConfigError
from common.data.spec import DataSpec
from tests.common.baselines.vae.test_weights import SMALL, published

SPEC = DataSpec('toy', 'image', (16, 16, 3), 256, num_train=10)
X = np.asarray(jax.random.randint(jax.random.key(0), (3, *SPEC.shape), 0, 256), np.uint8)


def unit(x):
  return np.moveaxis(x / np.float32(127.5) - 1, -1, 1)


@pytest.mark.peers
def test_an_autoencoder_kl_is_a_first_stage(tmp_path):
  import torch

  model = published('AutoencoderKL', tmp_path, **SMALL)
  stage = first_stage.read(str(tmp_path), SPEC, 'any images')
  assert (stage.shape, stage.levels) == ((8, 8, 4), 0)
  with torch.no_grad():
    mean = model.encode(torch.as_tensor(unit(X))).latent_dist.mean
    decoded = model.decode(mean).sample
  latents = stage.encode(X)
  np.testing.assert_allclose(latents, np.moveaxis(mean.numpy(), 1, -1), atol=2e-5)
  images = np.clip((np.moveaxis(decoded.numpy(), 1, -1) + 1) * 127.5, 0, 255)
  # Half a level, to which ours are rounded.
  assert np.abs(stage.decode(latents) - images).max() < 0.51
  # The scale of the pixels' distribution is no part of the published weights.
  assert stage.parameters == sum(p.numel() for p in model.parameters()) + 3


@pytest.mark.peers
def test_a_vq_model_is_a_first_stage_of_codes(tmp_path):
  import torch

  settings = SMALL | dict(latent_channels=3, num_vq_embeddings=20)
  model = published('VQModel', tmp_path, **settings)
  stage = first_stage.read(str(tmp_path), SPEC, 'any images')
  assert (stage.shape, stage.levels) == ((8, 8, 1), 20)
  with torch.no_grad():
    z = model.encode(torch.as_tensor(unit(X))).latents
    quantised, _, (_, _, index) = model.quantize(z)
    decoded = model.decoder(model.post_quant_conv(quantised))
  codes = stage.encode(X)
  np.testing.assert_array_equal(codes.ravel(), index.numpy().ravel())
  images = np.clip((np.moveaxis(decoded.numpy(), 1, -1) + 1) * 127.5, 0, 255)
  assert np.abs(stage.decode(codes) - images).max() < 0.51


@pytest.mark.peers
def test_published_weights_of_other_images_are_refused(tmp_path):
  published('AutoencoderKL', tmp_path, **SMALL)
  grey = DataSpec('grey', 'image', (16, 16, 1), 256, num_train=10)
  with pytest.raises(ConfigError, match=r'does not suit images of \(16, 16, 1\)'):
    first_stage.read(str(tmp_path), grey, 'any images')
