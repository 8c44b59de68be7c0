"""Published autoencoders give the numbers of diffusers, or are refused in one line."""

import json

import jax
import numpy as np
import pytest
import safetensors.numpy

from common.baselines.vae import weights
from common.config import ConfigError

SMALL = dict(block_out_channels=(32, 64), layers_per_block=1, norm_num_groups=8, latent_channels=4)
KL = {
  'two_blocks': SMALL | dict(layers_per_block=2),
  'no_quant_conv': SMALL
  | dict(
    use_quant_conv=False,
    use_post_quant_conv=False,
    latent_channels=16,
    scaling_factor=0.3611,
    shift_factor=0.1159,
  ),
  'no_attention': SMALL | dict(mid_block_add_attention=False, in_channels=1, out_channels=1),
  # Stable Diffusion's levels, an eighth as wide.
  'four_levels': SMALL | dict(block_out_channels=(16, 32, 64, 64), norm_num_groups=4),
}


def published(kind, folder, **settings):
  """A model of diffusers with random parameters, also of norms and biases, saved in the folder."""
  import torch
  from diffusers import AutoencoderKL, VQModel

  torch.manual_seed(0)
  levels = len(settings['block_out_channels'])
  model = {'AutoencoderKL': AutoencoderKL, 'VQModel': VQModel}[kind](
    down_block_types=('DownEncoderBlock2D',) * levels,
    up_block_types=('UpDecoderBlock2D',) * levels,
    **settings,
  )
  with torch.no_grad():
    for x in model.parameters():
      if x.ndim == 1:
        x.add_(0.1 * torch.randn_like(x))
  if folder is not None:
    model.save_pretrained(folder)
  return model


def numbers(shape, seed=0):
  return np.random.default_rng(seed).uniform(-1, 1, shape).astype(np.float32)


def to_torch(x):
  import torch

  return torch.from_numpy(np.asarray(x).transpose(0, 3, 1, 2).copy())


def from_torch(x):
  return x.detach().numpy().transpose(0, 2, 3, 1)


def run(made, x, method):
  network = made.network()
  apply = jax.jit(lambda params, x: network.apply({'params': params}, x, method=method))
  return np.asarray(apply(made.params, x))


def num_parameters(made):
  return sum(x.size for x in jax.tree.leaves((made.params, made.codebook)))


@pytest.mark.peers
@pytest.mark.parametrize('name', KL)
def test_an_autoencoder_kl_computes_the_same(name, tmp_path):
  settings = KL[name]
  model = published('AutoencoderKL', tmp_path, **settings)
  made = weights.read(tmp_path)
  assert num_parameters(made) == sum(x.numel() for x in model.parameters())
  assert made.scaling_factor == model.config.scaling_factor
  assert made.shift_factor == (model.config.shift_factor or 0.0)
  channels, latent_channels = settings.get('in_channels', 3), settings['latent_channels']
  for height, width in ((32, 32), (16, 48))[name != 'two_blocks' :]:
    x = numbers((2, height, width, channels))
    posterior = model.encode(to_torch(x)).latent_dist
    mean, log_variance = np.split(run(made, x, 'encode'), 2, axis=-1)
    np.testing.assert_allclose(mean, from_torch(posterior.mean), atol=1e-5)
    np.testing.assert_allclose(log_variance, from_torch(posterior.logvar), atol=1e-5)
    z = numbers((2, *made.network().grid(height, width), latent_channels), seed=1)
    decoded = run(made, z, 'decode')
    np.testing.assert_allclose(decoded, from_torch(model.decode(to_torch(z)).sample), atol=1e-5)
    assert min(np.std(y) for y in (mean, log_variance, decoded)) > 0.01  # far above the tolerance


@pytest.mark.peers
def test_a_vq_model_computes_the_same(tmp_path):
  from common.baselines.vae.codebook import nearest

  model = published('VQModel', tmp_path, num_vq_embeddings=32, **SMALL)
  made = weights.read(tmp_path)
  assert num_parameters(made) == sum(x.numel() for x in model.parameters())
  x = numbers((2, 16, 24, 3))
  theirs = model.encode(to_torch(x)).latents
  features = run(made, x, 'encode')
  np.testing.assert_allclose(features, from_torch(theirs), atol=1e-5)
  codes = jax.jit(nearest)(features, made.codebook)
  np.testing.assert_array_equal(codes.reshape(-1), model.quantize(theirs)[2][2])
  decoded = run(made, np.asarray(made.codebook)[codes], 'decode')
  np.testing.assert_allclose(decoded, from_torch(model.decode(theirs).sample), atol=1e-5)


@pytest.mark.peers
@pytest.mark.parametrize(
  ('quant_conv', 'latent_channels'), [(True, 4), (False, 16)], ids=['stable_diffusion', 'flux']
)
def test_autoencoders_of_full_size_have_the_same_tensors(quant_conv, latent_channels, tmp_path):
  import torch

  with torch.device('meta'):  # no memory
    model = published(
      'AutoencoderKL',
      None,
      block_out_channels=(128, 256, 512, 512),
      layers_per_block=2,
      latent_channels=latent_channels,
      use_quant_conv=quant_conv,
      use_post_quant_conv=quant_conv,
    )
  model.save_config(tmp_path)
  shapes = weights.tensor_shapes(weights.describe(tmp_path))
  assert shapes == {name: tuple(x.shape) for name, x in model.named_parameters()}


CONFIG = dict(
  _class_name='AutoencoderKL',
  _diffusers_version='0.35.0',
  act_fn='silu',
  block_out_channels=[4, 8],
  down_block_types=['DownEncoderBlock2D'] * 2,
  up_block_types=['UpDecoderBlock2D'] * 2,
  norm_num_groups=2,
  latent_channels=2,
  sample_size=32,
  shift_factor=None,
)
VQ = CONFIG | dict(_class_name='VQModel', num_vq_embeddings=8)
PREFIX = 'diffusion_pytorch_model'


def write_config(folder, config):
  (folder / 'config.json').write_text(json.dumps(config))


def write(folder, config=CONFIG, dtype=np.float32):
  """Writes a folder with random tensors, and returns them."""
  write_config(folder, config)
  shapes = weights.tensor_shapes(weights.describe(folder))
  tensors = {
    name: numbers(shape, seed).astype(dtype) for seed, (name, shape) in enumerate(shapes.items())
  }
  safetensors.numpy.save_file(tensors, folder / f'{PREFIX}.safetensors')
  return tensors


def assert_equal_params(one, other):
  jax.tree.map(np.testing.assert_array_equal, one.params, other.params)


def test_the_settings_of_a_config(tmp_path):
  write_config(tmp_path, CONFIG)
  made = weights.describe(tmp_path)
  assert made.settings == dict(
    width=4, multipliers=(1, 2), blocks=1, groups=2, attention=True, quant_conv=True
  )
  assert (made.channels, made.latent_channels, made.network().features) == (3, 2, 4)
  # The defaults of diffusers, which files of before these keys rely on.
  assert (made.scaling_factor, made.shift_factor) == (0.18215, 0.0)
  write_config(tmp_path, VQ)
  made = weights.describe(tmp_path)
  assert (made.codes, made.network().features) == (8, 2)


def test_layouts_of_the_tensors_by_hand(tmp_path):
  tensors = write(tmp_path)
  made = weights.read(tmp_path)
  encoder = made.params['encoder']
  theirs = tensors['encoder.down_blocks.1.resnets.0.conv1.weight']  # [out, in, rows, columns]
  np.testing.assert_array_equal(
    encoder['down_1_0']['conv1']['kernel'][2, 0, 3, 5], theirs[5, 3, 2, 0]
  )
  kernel = encoder['middle_attention']['qkv']['kernel']  # [in, 3, heads, out]
  theirs = tensors['encoder.mid_block.attentions.0.to_k.weight']  # [out, in]
  np.testing.assert_array_equal(kernel[3, 1, 0], theirs[:, 3])
  out = encoder['middle_attention']['out']['kernel']  # [heads, in, out]
  np.testing.assert_array_equal(out[0], tensors['encoder.mid_block.attentions.0.to_out.0.weight'].T)


def test_files_of_half_precision_with_older_names_in_shards(tmp_path):
  old, new = tmp_path / 'old', tmp_path / 'new'
  old.mkdir()
  new.mkdir()
  tensors = write(new, dtype=np.float16)
  write_config(old, CONFIG)
  renamed = {}
  for name, x in tensors.items():
    for current, older in (('to_q', 'query'), ('to_k', 'key'), ('to_v', 'value')):
      name = name.replace(current, older)
    renamed[name.replace('to_out.0', 'proj_attn')] = x
  assert renamed.keys() != tensors.keys()
  places = {name: f'{PREFIX}-{i % 2}.safetensors' for i, name in enumerate(renamed)}
  for file in set(places.values()):
    part = {name: x for name, x in renamed.items() if places[name] == file}
    safetensors.numpy.save_file(part, old / file)
  index = {'weight_map': places}
  (old / f'{PREFIX}.safetensors.index.json').write_text(json.dumps(index))
  assert_equal_params(weights.read(old), weights.read(new))


@pytest.mark.parametrize(
  ('changes', 'message'),
  [
    (dict(_class_name='AutoencoderDC'), r"unknown _class_name in .*'AutoencoderDC'"),
    (dict(act_fn='relu'), "has act_fn='relu', which is not supported; only 'silu' is"),
    (dict(encoder_hid_dim=8), "has an unknown key 'encoder_hid_dim'"),
    (dict(latents_mean=[0.0, 1.0]), "has an unknown key 'latents_mean'"),
    (dict(block_out_channels=[4, 6]), r'block_out_channels=\[4, 6\].* multiples of the first'),
    (dict(block_out_channels=[]), 'must be a list of whole numbers above 0'),
    (dict(block_out_channels=['4']), 'must be a list of whole numbers above 0'),
    (dict(norm_num_groups=3), 'norm_num_groups=3, which does not divide'),
    (
      dict(down_block_types=['DownEncoderBlock2D', 'AttnDownEncoderBlock2D']),
      r"down_block_types=.*not supported; only 'DownEncoderBlock2D' is, once for each of 2 levels",
    ),
    (dict(up_block_types=['UpDecoderBlock2D']), 'up_block_types=.* once for each of 2 levels'),
    (dict(out_channels=4), 'in_channels=3 and out_channels=4, which is not supported'),
    (dict(use_quant_conv=False), 'use_quant_conv=False and use_post_quant_conv=True'),
    (dict(shift_factor='0.1'), 'shift_factor=0.1; it must be a finite number'),
    (dict(scaling_factor=-1.0), 'scaling_factor=-1.0; it must be a finite number above 0'),
    (dict(latent_channels=0), 'latent_channels=0; it must be a whole number from 1'),
    (VQ | dict(vq_embed_dim=5), 'latent_channels=2 and vq_embed_dim=5, which is not supported'),
    (VQ | dict(norm_type='spatial'), "norm_type='spatial', which is not supported"),
    (VQ | dict(shift_factor=0.1), "unknown key 'shift_factor'"),
  ],
)
def test_other_architectures_are_refused_in_one_line(changes, message, tmp_path):
  write_config(tmp_path, CONFIG | changes)
  with pytest.raises(ConfigError, match=message) as error:
    weights.describe(tmp_path)
  assert '\n' not in str(error.value)


def test_a_shift_may_be_negative(tmp_path):
  write_config(tmp_path, CONFIG | dict(shift_factor=-0.5))
  assert weights.describe(tmp_path).shift_factor == -0.5


NAME = 'decoder.up_blocks.0.upsamplers.0.conv.bias'


@pytest.mark.parametrize(
  ('change', 'message'),
  [
    ({NAME: None}, f"implies a tensor '{NAME}', of shape .*, which is missing"),
    ({NAME: np.zeros(3, np.float32)}, r'has shape \(3,\); .* implies \(8,\)'),
    ({NAME: np.zeros(8, np.int8)}, 'has type I8'),
    ({NAME: np.full(8, np.nan, np.float32)}, 'not finite'),
    ({'more': np.zeros(8, np.float32)}, "a tensor 'more' that no part of the model uses"),
  ],
)
def test_other_tensors_are_refused_in_one_line(change, message, tmp_path):
  tensors = {name: x for name, x in (write(tmp_path) | change).items() if x is not None}
  safetensors.numpy.save_file(tensors, tmp_path / f'{PREFIX}.safetensors')
  with pytest.raises(ConfigError, match=message) as error:
    weights.read(tmp_path)
  assert '\n' not in str(error.value)


def test_folders_without_weights_are_refused(tmp_path):
  with pytest.raises(
    ConfigError, match=r'holds no published autoencoder: there is no config\.json'
  ):
    weights.read(tmp_path)
  write_config(tmp_path, CONFIG)
  # A pickle is never read.
  (tmp_path / f'{PREFIX}.bin').write_bytes(b'')
  with pytest.raises(ConfigError, match=rf'has no {PREFIX}\.safetensors'):
    weights.read(tmp_path)
  write_config(tmp_path, CONFIG | dict(layers_per_block=10**9))
  safetensors.numpy.save_file({'a': np.zeros(1)}, tmp_path / f'{PREFIX}.safetensors')
  with pytest.raises(ConfigError, match='implies more residual blocks than there are tensors'):
    weights.read(tmp_path)
