"""Properties that every autoencoder has; the numbers of 'conv' are compared in test_weights.py."""

import inspect
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from common.baselines.vae.networks import NETWORKS
from common.config import ConfigError
from common.patches import sincos_positions
from tests.common.baselines.vae.small import (
  NUM_CLASSES,
  SMALL,
  batch,
  build,
  compiled,
  quick_jit,
  random_params,
)
from tests.jaxprs import equations

GIVEN = {'out_channels', 'features', 'num_classes', 'dtype'}


@pytest.mark.parametrize('name', NETWORKS)
@pytest.mark.parametrize('size', [(8, 8), (28, 28), (32, 32), (8, 20)])
@pytest.mark.parametrize('dtype', ['float32', 'bfloat16'])
def test_shapes_of_images_and_latents_at_the_default_settings(name, size, dtype):
  network = NETWORKS[name](out_channels=6, features=8, dtype=dtype)
  x, z = jnp.zeros((2, *size, 3)), jnp.zeros((2, *network.grid(*size), 4))
  params = jax.eval_shape(network.init, jax.random.key(0), x, z)['params']
  assert {leaf.dtype for leaf in jax.tree.leaves(params)} == {np.dtype('float32')}
  encode, decode = (
    jax.eval_shape(
      lambda params, x, m=method: network.apply({'params': params}, x, method=m), params, x
    )
    for method, x in (('encode', x), ('decode', z))
  )
  rows, columns = network.grid(*size)
  assert (rows * network.factor, columns * network.factor) == size and network.factor > 1
  assert (encode.shape, decode.shape) == ((2, rows, columns, 8), (2, *size, 6))
  assert encode.dtype == decode.dtype == jnp.float32


@pytest.mark.parametrize('name', NETWORKS)
def test_every_parameter_has_a_gradient(name):
  network = build(name)

  def loss(params):
    return sum(jnp.sin(y).sum() for y in network.apply({'params': params}, *batch()))

  grads = quick_jit(jax.grad(loss))(random_params(network))
  paths = jax.tree.leaves_with_path(grads)
  assert not [jax.tree_util.keystr(path) for path, g in paths if not np.any(g)]


@pytest.mark.parametrize('name', NETWORKS)
def test_inputs_and_label_matter_and_examples_do_not_mix(name):
  x, z, label = batch()
  params, apply = random_params(build(name)), compiled(name)
  plain = apply(params, x, z, label)
  changed = {
    'x': (apply(params, x.at[1].add(1.0), z, label), (True, False)),
    'z': (apply(params, x, z.at[1].add(1.0), label), (False, True)),
    'label': (apply(params, x, z, label.at[1].set(4)), (True, True)),
  }
  for what, (outputs, concerned) in changed.items():
    for part, y, other in zip(concerned, plain, outputs, strict=True):
      difference = jnp.abs(other - y).max(axis=(1, 2, 3))
      assert (difference[1] > 1e-3) == part, what
      assert difference[jnp.array([0, 2, 3])].max() < 1e-4, what


@pytest.mark.parametrize('name', NETWORKS)
def test_encode_and_decode_are_the_two_parts_of_a_call(name):
  network, (x, z, label) = build(name), batch()
  params = random_params(network)
  features, images = compiled(name)(params, x, z, label)
  # Each needs its own parameters only.
  for part, inputs, method in (('encoder', x, 'encode'), ('decoder', z, 'decode')):
    run = quick_jit(lambda p, x, m=method: network.apply({'params': p}, x, label, method=m))
    expected = features if method == 'encode' else images
    np.testing.assert_allclose(run({part: params[part]}, inputs), expected, atol=1e-5)


@pytest.mark.parametrize('name', NETWORKS)
def test_products_and_residual_streams_are_bfloat16_and_close_to_float32(name):
  network, params = build(name, dtype='bfloat16'), random_params(build(name))
  run = lambda params: network.apply({'params': params}, *batch())
  gradient = jax.grad(lambda params: sum(y.sum() for y in run(params)))
  products = [
    (str(e.source_info.name_stack), {x.aval.dtype for x in e.invars})
    for e in equations(gradient, params)
    if e.primitive.name in ('dot_general', 'conv_general_dilated')
  ]
  assert len(products) > 20
  # The last layers, whose outputs are what the loss is given.
  wide = [place for place, types in products if jnp.dtype('float32') in types]
  assert wide and [p for p in wide if not re.search('output|encoder/quant_conv', p)] == []
  for y, rounded in zip(compiled(name)(params, *batch()), quick_jit(run)(params), strict=True):
    error = float(jnp.sqrt(jnp.mean((y - rounded) ** 2) / jnp.mean(y**2)))
    assert 1e-4 < error < 0.05


def test_a_transformer_of_one_patch_by_hand():
  """A single token attends to itself only: the attention returns its value."""
  network = build('transformer', patch=4, depth=1)
  x, z, label = batch(height=4, width=4)
  z = z[:, :1, :1]
  params = random_params(network, (x, z, label))
  p = jax.tree.map(np.asarray, params)
  dense = lambda h, layer: h @ layer['kernel'] + layer['bias']

  def norm(h, layer):
    h = (h - h.mean(-1, keepdims=True)) / np.sqrt(h.var(-1, keepdims=True) + 1e-6)
    return h * layer['scale'] + layer['bias']

  # The approximation by a tanh (Hendrycks & Gimpel 2016).
  gelu = lambda h: 0.5 * h * (1 + np.tanh(np.sqrt(2 / np.pi) * (h + 0.044715 * h**3)))

  def transformer(h, p):
    block = jax.tree.map(lambda leaf: leaf[0], p['blocks'])  # of the stack
    value = {
      'kernel': block['qkv']['kernel'][:, 2].reshape(16, 16),
      'bias': block['qkv']['bias'][2].ravel(),
    }
    out = {'kernel': block['out']['kernel'].reshape(16, 16), 'bias': block['out']['bias']}
    h = dense(h, p['input']) + sincos_positions(1, 1, 16) + p['label_embed']['embedding'][label]
    h = h + dense(dense(norm(h, block['attention_norm']), value), out)
    h = h + dense(gelu(dense(norm(h, block['mlp_norm']), block['up'])), block['down'])
    return dense(norm(h, p['norm']), p['output'])

  features, images = quick_jit(network.apply)({'params': params}, x, z, label)
  expected = transformer(np.asarray(x).reshape(4, -1), p['encoder'])
  np.testing.assert_allclose(features.reshape(4, 6), expected, rtol=1e-4, atol=1e-4)
  expected = transformer(np.asarray(z).reshape(4, -1), p['decoder'])
  np.testing.assert_allclose(images.reshape(4, -1), expected, rtol=1e-4, atol=1e-4)


def test_attention_and_convolutions_around_the_latents_are_optional():
  names = {}
  for on in (True, False):
    network = build('conv', attention=on, quant_conv=on)
    params = jax.eval_shape(network.init, jax.random.key(0), *batch())['params']
    names[on] = {f'{part}/{name}' for part in params for name in params[part]}
  assert names[False] < names[True]
  assert names[True] - names[False] == {
    'encoder/middle_attention',
    'decoder/middle_attention',
    'encoder/quant_conv',
    'decoder/post_quant_conv',
  }


@pytest.mark.parametrize('name', NETWORKS)
def test_labels_are_given_exactly_if_there_are_classes(name):
  x, z, label = batch()
  for num_classes, given, message in (
    (0, label, 'num_classes=0 takes no labels'),
    (NUM_CLASSES, None, f'num_classes={NUM_CLASSES} needs labels, got none'),
  ):
    with pytest.raises(ConfigError, match=message):
      jax.eval_shape(build(name, num_classes).init, jax.random.key(0), x, z, given)


@pytest.mark.parametrize(
  ('name', 'settings', 'message'),
  [
    ('conv', dict(widht=8), r"unknown setting network\.widht of 'conv'; did you mean 'width'"),
    ('conv', dict(width=6, groups=4), 'network.groups=4 must divide the channels .* got 6'),
    ('conv', dict(multipliers=()), 'must be a tuple of 1 or more whole numbers'),
    ('conv', dict(blocks=0), 'network.blocks=0 must be at least 1'),
    (
      'transformer',
      dict(heads=5),
      'network.width=16 must be a multiple of 4 and of network.heads=5',
    ),
    ('transformer', dict(width=18), 'network.width=18 must be a multiple of 4'),
    ('transformer', dict(patch=0), 'network.patch=0 must be at least 1'),
  ],
)
def test_bad_settings_are_refused_in_one_line(name, settings, message):
  with pytest.raises(ConfigError, match=message) as error:
    build(name, **settings)
  assert '\n' not in str(error.value)


@pytest.mark.parametrize(
  ('name', 'settings', 'message'),
  [
    (
      'conv',
      dict(multipliers=(1, 1, 1, 1)),
      'network.multipliers=(1, 1, 1, 1) needs images whose sides are multiples of 8, got 28x28',
    ),
    (
      'transformer',
      dict(patch=8),
      'network.patch=8 needs images whose sides are multiples of 8, got 28x28',
    ),
  ],
)
def test_images_that_do_not_divide_are_refused_in_one_line(name, settings, message):
  network = build(name, num_classes=0, **settings)
  with pytest.raises(ConfigError) as error:
    network.grid(28, 28)
  assert str(error.value) == message
  x, z = jnp.zeros((1, 28, 28, 2)), jnp.zeros((1, 4, 4, 3))
  with pytest.raises(ConfigError) as error:
    jax.eval_shape(network.init, jax.random.key(0), x, z)
  assert str(error.value) == message


@pytest.mark.parametrize('name', NETWORKS)
def test_every_setting_has_a_default_except_the_given_ones(name):
  parameters = inspect.signature(NETWORKS[name]).parameters.values()
  required = {p.name for p in parameters if p.default is inspect.Parameter.empty}
  assert required <= GIVEN and SMALL[name]['name'] == name
