"""Rules for every network, and the messages where a mesh does not fit."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AbstractMesh, NamedSharding
from jax.sharding import PartitionSpec as P

from autoregressive.method import build_model
from autoregressive.networks import NETWORKS as CAUSAL
from common.baselines.vae.networks.conv import ConvAutoencoder
from common.config import ConfigError
from common.data.spec import DataSpec
from common.devices.mesh import AXES
from common.training import sharding
from common.training.parallel import make_mesh
from common.training.program import build_program
from common.training.sharding import LARGE, check_placement, leaf_spec, shardings
from experiments import families
from tests.autoregressive.common import DIGITS, perturbed, small_config
from tests.autoregressive.networks import test_nbeats as nbeats
from tests.cases import mostly_slow
from tests.common.baselines.vae import small as autoencoders
from tests.configs.test_papers import built
from tests.diffusion.networks import small
from tests.test_precision import model_of

AUTOENCODERS = {f'autoencoder_{name}': name for name in autoencoders.SMALL}
NETWORKS = [*CAUSAL, *small.SMALL, *AUTOENCODERS]
IMAGES = DataSpec('images', 'image', (4, 4, 3), 256, 10)


def mesh(data=1, fsdp=1, tensor=1):
  return AbstractMesh((data, fsdp, tensor), AXES)


def shaped(shape):
  return jax.ShapeDtypeStruct(shape, jnp.float32)


def causal(name):
  """Shapes of a model with a network at about its default size, over 256 levels."""
  head = 'logistic_mixture' if name == 'pixelcnn_pp' else 'categorical'
  network = dict(name=name) | (dict(levels=2, blocks=2) if name == 'pixelcnn_pp' else {})
  network |= dict(width=128) if 'pixelcnn' in name else {}
  settings = dict(network=network, head=dict(name=head))
  ordering, model = build_model(families.complete(small_config() | settings), IMAGES)
  emissions = ordering.encode(jnp.zeros((1, *IMAGES.shape), jnp.int32))
  return jax.eval_shape(model.init, jax.random.key(0), emissions)['params']


def direct(name):
  """Shapes of a network that forecasts 18 steps from 36, at its default size."""
  network = CAUSAL[name](lookback=36, horizon=18)
  return {
    'network': jax.eval_shape(network.init, jax.random.key(0), jnp.zeros((1, 1, 36)))['params']
  }


def shapes_of(name):
  """Shapes of the parameters of a network of either family, or of a baseline."""
  if name in AUTOENCODERS:
    return autoencoder(AUTOENCODERS[name])
  if name not in CAUSAL:
    return diffusion(name)
  return direct(name) if CAUSAL[name].direct else causal(name)


def diffusion(name):
  """Shapes of a network of 128 channels or more."""
  network = small.build(name, width=256 if name in ('dit', 'mlp') else 128)
  return {'network': jax.eval_shape(network.init, jax.random.key(0), *small.batch())['params']}


def autoencoder(name):
  """Shapes of an autoencoder of 128 channels or more."""
  network = autoencoders.build(name, width=128)
  struct = jax.eval_shape(network.init, jax.random.key(0), *autoencoders.batch())
  return {'network': struct['params']}


@pytest.mark.parametrize('name', NETWORKS)
def test_every_network_has_rules_for_both_axes(name):
  params = shapes_of(name)
  check_placement(params, mesh(fsdp=2, tensor=2))
  specs = jax.tree.map(lambda s: str(s.spec), shardings(params, mesh(fsdp=2, tensor=2)))
  pairs = list(zip(jax.tree.leaves(params), jax.tree.leaves(specs), strict=True))
  assert sum(leaf.size >= LARGE for leaf, _ in pairs) >= 2
  for axis in ('fsdp', 'tensor'):
    whole = sum(leaf.size for leaf, spec in pairs if axis not in spec)
    assert whole < 0.1 * sum(leaf.size for leaf, _ in pairs), axis


def gradients(name):
  """(function that returns loss and gradients, parameters, inputs of eight examples)."""
  if name in small.SMALL:
    network = small.build(name)
    run, inputs = network.apply, small.batch(8)
    params = {'network': small.random_params(network)}
    loss = lambda params, *inputs: jnp.square(run({'params': params['network']}, *inputs)).mean()
  elif name in AUTOENCODERS:
    network, inputs = autoencoders.build(AUTOENCODERS[name]), autoencoders.batch(8)
    params = {'network': autoencoders.random_params(network)}
    run = lambda params, *inputs: network.apply({'params': params['network']}, *inputs)
    loss = lambda *args: sum(jnp.square(y).mean() for y in run(*args))
  elif CAUSAL[name].direct:
    network, x = nbeats.SMALL[name], jax.random.normal(jax.random.key(0), (8, 1, nbeats.CONTEXT))
    run, inputs = network.apply, (x,)
    params = {'network': perturbed(jax.jit(network.init)(jax.random.key(1), x)['params'], 0.1)}
    loss = lambda params, x: jnp.square(run({'params': params['network']}, x)[0]).mean()
  else:
    model, emissions = model_of(name, 'float32')
    inputs = (jnp.tile(emissions, (4, 1, 1)),)
    params = perturbed(jax.jit(model.init)(jax.random.key(1), emissions)['params'], 0.1)
    loss = lambda params, x: jnp.square(model.apply({'params': params}, x)).mean()
  return jax.value_and_grad(loss), params, inputs


@pytest.mark.parametrize('name', mostly_slow(NETWORKS, ['mlp']))
def test_the_gradient_of_every_network_is_the_same_on_a_mesh(name, monkeypatch):
  """Wrong numbers of a compiler that splits a layer in an unusual way would show here."""
  monkeypatch.setattr(sharding, 'FSDP_MIN_SIZE', 128)
  monkeypatch.setattr(sharding, 'LARGE', 128)
  run, params, inputs = gradients(name)
  devices = make_mesh(dict(data=2, fsdp=2, tensor=2))
  batch = NamedSharding(devices, P(('data', 'fsdp')))
  placed = (shardings(params, devices), *(batch for _ in inputs))
  on_mesh = small.quick_jit(run, in_shardings=placed)(params, *inputs)
  for a, b in zip(
    jax.tree.leaves(small.quick_jit(run)(params, *inputs)), jax.tree.leaves(on_mesh), strict=True
  ):
    np.testing.assert_allclose(b, a, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
  ('variant', 'axes'),
  [
    ('ddpm:cifar10', dict(fsdp=8, tensor=4)),
    ('edm:cond_vp', dict(fsdp=8, tensor=4)),
    ('dit:XL2', dict(fsdp=16, tensor=8)),
    ('nanogpt:gpt2', dict(fsdp=64, tensor=4)),
    ('llama2:7B', dict(fsdp=64, tensor=4)),
    ('llama2:7B', dict(fsdp=256)),
  ],
)
def test_papers_fit_large_meshes(variant, axes):
  assert_split(built(f'papers/{variant}')[3], axes)


@pytest.mark.parametrize('block', ['adaln', 'cross_attention', 'in_context'])
def test_blocks_of_dit_fit_large_meshes(block):
  assert_split(built('papers/dit:XL2', block)[3], dict(fsdp=16, tensor=8))


def test_the_autoencoder_of_stable_diffusion_fits_a_large_mesh():
  network = ConvAutoencoder(3, 8, width=128, multipliers=(1, 2, 4, 4), blocks=2, groups=32)
  x, z = jnp.zeros((1, 64, 64, 3)), jnp.zeros((1, 8, 8, 4))
  params = jax.eval_shape(network.init, jax.random.key(0), x, z)['params']
  assert_split({'network': params}, dict(fsdp=8, tensor=4))


def assert_split(params, axes):
  """Each device has about its share of the parameters, and no more."""
  check_placement(params, mesh(**axes))
  placed = shardings(params, mesh(**axes))
  held = jax.tree.map(lambda leaf, s: math.prod(s.shard_shape(leaf.shape)), params, placed)
  total = sum(leaf.size for leaf in jax.tree.leaves(params))
  # Short vectors are whole on every device.
  assert sum(jax.tree.leaves(held)) < 1.1 * total / math.prod(axes.values())


@pytest.mark.parametrize(
  ('path', 'shape', 'expected'),
  [
    # Tokens over `tensor`; the width over `fsdp`, with `tensor` and without.
    ('token_embed/embedding', (256, 64), P('tensor', 'fsdp')),
    ('output_proj/kernel', (64, 256), P('fsdp', 'tensor')),
    # The same for the moments of the optimiser, and for the layers of a scan.
    ('0/mu/network/blocks/attention/qkv/kernel', (2, 64, 192), P(None, 'fsdp', 'tensor')),
    ('0/nu/network/blocks/attention/out/kernel', (2, 64, 64), P(None, 'tensor', 'fsdp')),
    # By heads: (width, 3, heads, dim) and (heads, dim, width).
    ('network/blocks/qkv/kernel', (64, 3, 4, 16), P('fsdp', None, 'tensor', None)),
    ('network/blocks/out/kernel', (4, 16, 64), P('tensor', None, 'fsdp')),
    # A single head of a U-Net: by inputs, and then by outputs.
    ('network/middle_attention/qkv/kernel', (256, 3, 1, 256), P('tensor', None, None, 'fsdp')),
    ('network/middle_attention/out/kernel', (1, 256, 256), P(None, 'fsdp', 'tensor')),
    # Convolutions: one of the two axes of channels.
    ('network/down_0_0/conv1/kernel', (3, 3, 64, 64), P(None, None, None, ('tensor', 'fsdp'))),
    ('network/down_0_0/conv2/kernel', (3, 3, 64, 64), P(None, None, ('tensor', 'fsdp'), None)),
    ('network/top/h_out_0/Conv_0/kernel', (2, 2, 64, 64), P(None, None, ('tensor', 'fsdp'), None)),
    # Experts, stacked in front: no axis splits them, and layers of a scan are no convolutions.
    ('network/experts/blocks/up/kernel', (8, 3, 64, 256), P(None, None, 'fsdp', 'tensor')),
    ('network/experts/output_proj/kernel', (8, 64, 128), P(None, 'tensor', 'fsdp')),
    (
      'network/experts/down_0_0/conv1/kernel',
      (8, 3, 3, 64, 64),
      P(None, None, None, None, ('tensor', 'fsdp')),
    ),
    # 1,001 classes: too many to be whole, and 2 does not divide them.
    ('network/conditioning/label_embed/embedding', (1001, 256), P(None, ('tensor', 'fsdp'))),
    ('network/conditioning/label_embed/embedding', (11, 256), P(None, None)),
    ('network/final_norm/scale', (4096,), P('fsdp')),
    ('network/final_norm/scale', (512,), P(None)),
  ],
)
def test_the_dimension_of_each_axis(path, shape, expected):
  assert leaf_spec(path, shape, mesh(fsdp=2, tensor=2)) == expected


def test_fsdp_alone_splits_the_width_of_embeddings_and_else_the_largest_dimension():
  split = functools.partial(leaf_spec, mesh=mesh(fsdp=4))
  assert split('token_embed/embedding', (32_000, 64)) == P(None, 'fsdp')
  assert split('token_embed/embedding', (32_000, 66)) == P('fsdp', None)
  assert split('output_proj/kernel', (64, 32_000)) == P(None, 'fsdp')
  assert split('anything', (62, 128)) == P(None, 'fsdp')
  assert leaf_spec('token_embed/embedding', (32_000, 64), mesh(data=8)) == P(None, None)


@pytest.mark.parametrize(
  ('path', 'shape', 'axes', 'message'),
  [
    (
      'network/mystery/kernel',
      (256, 256),
      dict(tensor=2),
      'parallel.tensor=2: no rule splits network/mystery/kernel (256, 256); set parallel.tensor=1, '
      'or add a rule to common/training/sharding.py',
    ),
    (
      'token_embed/embedding',
      (50_257, 768),
      dict(tensor=4),
      'parallel.tensor=4 does not divide token_embed/embedding (50257, 768); make head.pad_to a '
      'multiple of 4, or set parallel.tensor=1',
    ),
    (
      'network/blocks/qkv/kernel',
      (12, 384, 3, 6, 64),
      dict(tensor=4),
      'parallel.tensor=4 does not divide network/blocks/qkv/kernel (12, 384, 3, 6, 64); make '
      'network.heads a multiple of 4, or set parallel.tensor=1',
    ),
    (
      'token_embed/embedding',
      (50_304, 768),
      dict(fsdp=512),
      'parallel.fsdp=512 divides no dimension of token_embed/embedding (50304, 768); use fewer '
      'devices for parallel.fsdp and more for parallel.data',
    ),
  ],
)
def test_a_large_parameter_that_would_be_whole_everywhere_is_an_error(path, shape, axes, message):
  with pytest.raises(ConfigError) as error:
    check_placement({path: shaped(shape)}, mesh(**axes))
  assert str(error.value) == message
  check_placement({path: shaped(shape)}, mesh(data=8))
  check_placement({path: shaped((3, 5))}, mesh(**axes))  # small


def test_a_message_names_a_few_parameters_and_all_settings():
  params = {f'block_{i}/qkv/kernel': shaped((512, 3, 3, 128)) for i in range(3)}
  params |= {f'block_{i}/up/kernel': shaped((512, 513)) for i in range(2)}
  known = r'block_1/qkv/kernel .*, 2 more; make network\.heads and network\.mlp_width or '
  with pytest.raises(ConfigError, match=known):
    check_placement(params, mesh(tensor=2))


def test_a_run_whose_heads_do_not_suit_its_mesh_is_refused_before_it_starts():
  network = dict(name='dit', width=384, depth=2, heads=3)
  config = families.complete(dict(family='diffusion', network=network))
  config['parallel'] |= dict(tensor=2)
  two = make_mesh(config['parallel'], jax.devices())
  with pytest.raises(ConfigError, match=r'parallel\.tensor=2 does not divide .* network\.heads'):
    build_program(config, families.build(config, DIGITS), DIGITS, two)
