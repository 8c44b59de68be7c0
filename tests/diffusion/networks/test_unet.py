import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.signal

from common.config import ConfigError, component
from configs.papers.guidance import NETWORK as ADM_64
from diffusion.networks import NETWORKS
from diffusion.networks.blocks import (
  Attention,
  ResBlock,
  Style,
  conv_downsample,
  fourier_features,
  group_norm,
  num_groups,
)
from diffusion.networks.resampling import downsample, upsample
from diffusion.networks.unet import UNet
from tests.diffusion.networks.small import batch, build, quick_jit, random_params


def test_the_size_of_adm_is_the_published_one():
  """296M (Dhariwal & Nichol 2021); the null class is one embedding more than ADM has."""
  network = component(NETWORKS, ADM_64, 'network', out_channels=6, num_classes=1000)
  x = jax.ShapeDtypeStruct((1, 64, 64, 3), jnp.float32)
  noise = jax.ShapeDtypeStruct((1,), jnp.float32)
  params = jax.eval_shape(network.init, jax.random.key(0), x, noise)
  assert sum(leaf.size for leaf in jax.tree.leaves(params)) == 295_904_454 + 4 * 192


@pytest.mark.parametrize(('side', 'levels'), [(8, 3), (28, 3), (32, 4)])
def test_sizes_of_images(side, levels):
  network = build('ddpm', num_classes=0, multipliers=(1,) * levels, attention=(side // 2,))
  x = jax.ShapeDtypeStruct((2, side, side, 3), jnp.float32)
  noise = jax.ShapeDtypeStruct((2,), jnp.float32)
  y, _ = jax.eval_shape(network.init_with_output, jax.random.key(0), x, noise)
  assert y.shape == (2, side, side, 2)


@pytest.mark.slow
def test_every_pixel_sees_every_pixel():
  """Through the attention of the coarse level; a broken skip or resampling would cut pixels off."""
  x, noise, label = batch(1)
  for name in ('ddpm', 'ncsn++'):
    network = build(name)

    def pixel(x, params, network=network):
      return network.apply({'params': params}, x, noise, label)[0, 0, 0, 0]

    assert np.all(quick_jit(jax.grad(pixel))(x, random_params(network))), name


def test_downsampling():
  x = jnp.arange(16.0).reshape(1, 4, 4, 1)
  np.testing.assert_allclose(downsample(x)[0, :, :, 0], [[2.5, 4.5], [10.5, 12.5]])
  ramp = jnp.broadcast_to(jnp.arange(8.0)[:, None, None], (1, 8, 8, 2))
  # A symmetric filter of unit sum keeps a ramp away from the edges.
  np.testing.assert_allclose(downsample(ramp, fir=True)[0, 1:3, 1:3, 0], [[2.5] * 2, [4.5] * 2])


def test_upsampling():
  x = jnp.array([[1.0, 2.0], [3.0, 4.0]])[None, :, :, None]
  np.testing.assert_array_equal(
    upsample(x)[0, :, :, 0], [[1, 1, 2, 2], [1, 1, 2, 2], [3, 3, 4, 4], [3, 3, 4, 4]]
  )
  ramp = jnp.broadcast_to(jnp.arange(6.0)[:, None, None], (1, 6, 6, 2))
  up = upsample(ramp, fir=True)[0, :, 5, 0]
  np.testing.assert_allclose(up[2:10], [0.75, 1.25, 1.75, 2.25, 2.75, 3.25, 3.75, 4.25])


def test_fir_down_is_the_transpose_of_fir_up():
  """<down x, y> = <x, up y> / 4: filter and padding belong together."""
  keys = jax.random.split(jax.random.key(0))
  x = jax.random.normal(keys[0], (1, 8, 8, 3))
  y = jax.random.normal(keys[1], (1, 4, 4, 3))
  for fir in (False, True):
    np.testing.assert_allclose(
      jnp.vdot(downsample(x, fir), y), jnp.vdot(x, upsample(y, fir)) / 4, rtol=1e-4
    )


def test_a_filtered_convolution_convolves_at_the_full_resolution():
  """NCSN++'s: the image, filter and kernel as one kernel of 6x6, then every second pixel."""
  rng = np.random.default_rng(0)
  x, kernel = rng.normal(size=(1, 8, 6, 1)), rng.normal(size=(3, 3, 1, 1))
  layer = Halve()
  params = {'params': {'conv': {'kernel': jnp.asarray(kernel), 'bias': jnp.asarray([0.5])}}}
  taps = np.array([1, 3, 3, 1]) / 8
  # scipy convolves, networks correlate: the kernel is turned, the filter is symmetric.
  both = scipy.signal.convolve2d(np.outer(taps, taps), kernel[::-1, ::-1, 0, 0])
  whole = scipy.signal.convolve2d(x[0, :, :, 0], both)
  np.testing.assert_allclose(
    layer.apply(params, jnp.asarray(x))[0, :, :, 0], 0.5 + whole[3:-2:2, 3:-2:2], atol=1e-5
  )


@pytest.mark.parametrize('scale_shift', [True, False])
def test_a_residual_block_by_hand(scale_shift):
  """With convolutions that change nothing: (x + silu(the conditioned second norm))/√2."""
  style = Style(0.0, scale_shift, True, False, False, 0, 'float32')
  block = ResBlock(style, 4, train=False)
  x = jax.random.normal(jax.random.key(0), (1, 2, 2, 4))
  condition = jnp.ones((1, 3))
  params = block.init(jax.random.key(1), x, condition)['params']
  same = jnp.zeros((3, 3, 4, 4)).at[1, 1].set(jnp.eye(4))
  numbers = jnp.asarray([0.5] * 4 + [0.3] * 4 if scale_shift else [0.3] * 4)
  for name in ('conv1', 'conv2'):
    params[name] = {'kernel': same, 'bias': jnp.zeros(4)}
  params['condition_proj'] = {'kernel': jnp.zeros((3, len(numbers))), 'bias': numbers}
  silu = lambda h: h / (1 + np.exp(-h))
  norm = lambda h: (h - h.mean()) / np.sqrt(h.var() + 1e-6)
  h = silu(norm(np.asarray(x)))
  h = norm(h) * 1.5 + 0.3 if scale_shift else norm(h + 0.3)
  expected = (np.asarray(x) + silu(h)) / np.sqrt(2)
  np.testing.assert_allclose(block.apply({'params': params}, x, condition), expected, atol=1e-5)


def test_attention_of_one_pixel_by_hand():
  """A single pixel attends to itself only: its value, from its norm in two groups of channels."""
  style = Style(0.0, False, True, False, False, 4, 'float32')
  x = jax.random.normal(jax.random.key(0), (2, 1, 1, 8))
  params = Attention(style).init(jax.random.key(1), x)['params']
  keys = iter(jax.random.split(jax.random.key(2), 8))
  params = jax.tree.map(lambda leaf: jax.random.normal(next(keys), leaf.shape), params)
  p, pixel = jax.tree.map(np.asarray, params), np.asarray(x)[:, 0, 0]
  groups = pixel.reshape(2, 2, 4)
  groups = groups - groups.mean(-1, keepdims=True)
  h = (groups / np.sqrt((groups**2).mean(-1, keepdims=True) + 1e-6)).reshape(2, 8)
  h = h * p['norm']['scale'] + p['norm']['bias']
  h = h @ p['qkv']['kernel'][:, 2].reshape(8, 8) + p['qkv']['bias'][2].reshape(8)
  h = h @ p['out']['kernel'].reshape(8, 8) + p['out']['bias']
  made = Attention(style).apply({'params': params}, x)[:, 0, 0]
  np.testing.assert_allclose(made, (pixel + h) / np.sqrt(2), rtol=1e-4, atol=1e-4)


def test_attention_on_the_way_up_is_after_every_block_or_after_the_last():
  for name, expected in (('adm', ['up_1_0', 'up_1_1']), ('ncsn++', ['up_1_1'])):
    names = jax.eval_shape(build(name).init, jax.random.key(0), *batch())['params']
    made = [n.removesuffix('_attention') for n in names if n.startswith('up_1') and 'att' in n]
    assert sorted(made) == expected


def test_the_input_of_each_level_is_shrunken_from_the_sum_of_the_level_before():
  """NCSN++ (the authors' code): the sum of a level and its input, not the input alone, goes on."""
  network = build('ncsn++', multipliers=(1, 1, 1), attention=())

  @quick_jit
  def level_input(params):
    _, made = network.apply(
      {'params': params},
      *batch(1),
      capture_intermediates=lambda module, _: module.name == 'down_1_input',
      mutable=['intermediates'],
    )
    return jax.tree.leaves(made)[0]

  params = random_params(network)
  other = params | {'down_0_0': jax.tree.map(jnp.negative, params['down_0_0'])}
  assert np.abs(level_input(other) - level_input(params)).max() > 0.1


class Halve(nn.Module):
  @nn.compact
  def __call__(self, x):
    style = Style(0.0, False, False, False, True, 0, 'float32')
    return conv_downsample(x, 1, style, 'conv')


def test_groups_divide():
  for channels in (4, 16, 24, 72, 120, 128, 192, 384, 576):
    groups = num_groups(channels)
    assert channels % groups == 0 and groups <= 32 and channels // groups >= 4
  assert num_groups(128) == num_groups(192) == num_groups(576) == 32


def test_fourier_features_are_sines_and_cosines_at_powers_of_two():
  x = jax.random.uniform(jax.random.key(0), (2, 4, 4, 3))
  made = np.asarray(fourier_features(x, (1, 2))).reshape(2, 4, 4, 3, 4)
  angles = 2 * np.pi * np.asarray(x)[..., None] * [2.0, 4.0]
  expected = np.concatenate([np.sin(angles), np.cos(angles)], axis=-1)
  np.testing.assert_allclose(made, expected, atol=2e-5)


def test_the_input_is_added_to_the_output():
  network = component(
    NETWORKS,
    dict(name='unet', width=16, multipliers=(1,), add_input=True, input_fourier=(6, 7)),
    'network',
    out_channels=1,
    num_classes=0,
  )
  x, noise, _ = batch()
  y, variables = quick_jit(network.init_with_output)(jax.random.key(0), x, noise)
  np.testing.assert_array_equal(y, x)  # the output's own convolution starts at zero
  assert variables['params']['input']['kernel'].shape == (3, 3, 1 + 4, 16)
  with pytest.raises(ConfigError, match='needs as many channels of the output as of the input'):
    network.clone(out_channels=2).init(jax.random.key(0), x, noise)


def test_initial_weights_of_edm():
  """Karras et al. 2022, code: Xavier's uniform weights times 1e-5 and √0.2, and those alone."""
  style = Style(0.0, False, False, False, False, 0, 'float32', initialisation='edm')
  x, condition = jnp.zeros((1, 2, 2, 32)), jnp.zeros((1, 8))
  block = quick_jit(ResBlock(style, 32, False).init)(jax.random.key(0), x, condition)['params']
  attention = quick_jit(Attention(style).init)(jax.random.key(0), x)['params']
  for layer, fans, factor in (
    (block['conv1'], (9 * 32, 9 * 32), 1.0),
    (block['conv2'], (9 * 32, 9 * 32), 1e-5),
    (attention['qkv'], (32, 3 * 32), 0.2**0.5),
    (attention['out'], (32, 32), 1e-5),
  ):
    assert np.std(layer['kernel']) == pytest.approx(factor * np.sqrt(2 / sum(fans)), rel=0.1)


def test_initial_weights_of_adm():
  """PyTorch's default, uniform within ±1/√fan_in, zeros in the last layers, classes of N(0, 1)."""
  style = Style(0.0, False, False, False, False, 0, 'float32', initialisation='adm')
  x, condition = jnp.zeros((1, 2, 2, 32)), jnp.zeros((1, 8))
  block = quick_jit(ResBlock(style, 32, False).init)(jax.random.key(0), x, condition)['params']
  attention = quick_jit(Attention(style).init)(jax.random.key(0), x)['params']
  for layer, fan_in in (
    (block['conv1'], 9 * 32),
    (block['condition_proj'], 8),
    (attention['qkv'], 32),
  ):
    bound = fan_in**-0.5
    assert np.std(layer['kernel']) == pytest.approx(bound / 3**0.5, rel=0.1)
    assert 0.95 * bound < np.abs(layer['kernel']).max() <= bound
  assert not np.any(block['conv2']['kernel']) and not np.any(attention['out']['kernel'])
  network = UNet(1, num_classes=30, width=16, multipliers=(1,), blocks=1, initialisation='adm')
  x, noise, _ = batch()
  params = quick_jit(network.init)(jax.random.key(0), x, noise)['params']
  rows = params['conditioning']['label_embed']['embedding']
  assert np.std(rows) == pytest.approx(1.0, rel=0.1)
  for layer in (params['input'], params['down_0_0']['conv1'], params['middle_attention']['qkv']):
    bound = (
      np.prod(layer['kernel'].shape[: layer['kernel'].ndim - len(layer['bias'].shape)]) ** -0.5
    )
    assert 0.9 * bound < np.abs(layer['kernel']).max() <= bound


def test_the_epsilon_of_group_norms():
  style = Style(0.0, False, False, False, False, 0, 'float32', norm_epsilon=1e-5)
  x = 1e-5**0.5 * jax.random.normal(jax.random.key(0), (1, 64, 64, 4))
  y, _ = group_norm(4, style, 'norm').init_with_output(jax.random.key(1), x)
  # Each variance is as large as ε.
  assert np.std(y) == pytest.approx(0.5**0.5, rel=0.01)
  network = build('ddpm', multipliers=(1,), attention=())
  x, noise, _ = batch()
  params = random_params(network)
  y, small = (
    quick_jit(network.clone(norm_epsilon=epsilon).apply)({'params': params}, x, noise)
    for epsilon in (1e-6, 10.0)
  )
  assert np.std(small) < 0.5 * np.std(y)
