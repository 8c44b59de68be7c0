"""Properties that every network has."""

import functools
import inspect

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from common.config import ConfigError
from diffusion.networks import NETWORKS
from diffusion.networks.conditioning import Conditioning
from tests.cases import mostly_slow, slow
from tests.diffusion.networks.small import (
  NUM_CLASSES,
  SMALL,
  batch,
  build,
  compiled,
  quick_jit,
  random_params,
)


@pytest.mark.parametrize('name', mostly_slow(SMALL, ['dit', 'mlp']))
def test_output_is_zero_at_initialisation(name):
  y, _ = quick_jit(build(name).init_with_output)(jax.random.key(0), *batch())
  assert y.shape == (4, 8, 8, 2) and y.dtype == jnp.float32
  assert not np.any(y)


@pytest.mark.parametrize('name', mostly_slow(SMALL, SMALL.keys() - {'adm', 'ncsn++'}))
def test_every_parameter_has_a_gradient(name):
  network = build(name)
  loss = lambda params: jnp.sum(jnp.sin(network.apply({'params': params}, *batch())))
  grads = quick_jit(jax.grad(loss))(random_params(network))
  paths = jax.tree.leaves_with_path(grads)
  assert not [jax.tree_util.keystr(path) for path, g in paths if not np.any(g)]


@pytest.mark.parametrize('name', SMALL)
def test_noise_and_label_matter_and_examples_do_not_mix(name):
  x, noise, label = batch()
  params, apply = random_params(build(name)), compiled(name)
  y = apply(params, x, noise, label)
  changed = {
    'x': apply(params, x.at[1].add(1.0), noise, label),
    'noise': apply(params, x, noise.at[1].add(100.0), label),
    'label': apply(params, x, noise, label.at[1].set(4)),
  }
  for what, other in changed.items():
    difference = jnp.abs(other - y).max(axis=(1, 2, 3))
    assert difference[1] > 1e-3, what
    assert difference[jnp.array([0, 2, 3])].max() < 1e-4, what


@pytest.mark.parametrize('name', ['dit', 'ddpm', 'mlp'])
def test_label_none_is_the_null_class(name):
  x, noise, label = batch()
  params, apply = random_params(build(name)), compiled(name)
  null = apply(params, x, noise, jnp.full_like(label, NUM_CLASSES))
  np.testing.assert_allclose(apply(params, x, noise, None), null, atol=1e-4)
  assert np.abs(apply(params, x, noise, label) - null).max() > 1e-3


@pytest.mark.parametrize('name', ['dit', 'ddpm', 'mlp'])
def test_dropout_only_in_training_and_different_for_each_key(name):
  params = random_params(build(name))
  plain = compiled(name)(params, *batch())
  train = compiled(name, train=True, dropout=0.3)
  ones = [train(params, *batch(), seed) for seed in (0, 1)]
  assert np.abs(ones[0] - ones[1]).max() > 1e-3
  assert np.abs(ones[0] - plain).max() > 1e-3
  network = build(name, dropout=0.3)  # needs no key outside training, and drops nothing
  evaluated = quick_jit(network.apply)({'params': params}, *batch())
  np.testing.assert_allclose(evaluated, plain, atol=1e-4)


@pytest.mark.parametrize('name', ['dit', *slow(['ddpm'])])
def test_remat_computes_the_same(name):
  params = random_params(build(name))
  jaxprs, values = [], []
  for remat in (False, True):
    network = build(name, remat=remat, dropout=0.1)

    def loss(params, network=network):
      key = {'dropout': jax.random.key(0)}
      return jnp.mean(network.apply({'params': params}, *batch(), train=True, rngs=key) ** 2)

    jaxprs.append(str(jax.make_jaxpr(jax.grad(loss))(params)))
    if name == 'dit':  # the U-Net compiles slowly, and uses the same remat
      values.append(quick_jit(jax.grad(loss))(params))
  if values:
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-4), *values)
  assert 'remat' not in jaxprs[0] and 'remat' in jaxprs[1]


def test_augmentation_labels():
  x, noise, label = batch()
  network = Conditioning(
    16, 'adm', 8, augment_dim=3, kernel_init=jax.nn.initializers.lecun_normal()
  )
  params = network.init(jax.random.key(0), noise)
  apply = lambda augment: network.apply(params, noise, augment=augment)
  np.testing.assert_array_equal(apply(None), apply(jnp.zeros((4, 3))))
  assert np.abs(apply(jnp.ones((4, 3))) - apply(None)).max() > 1e-3
  for name in ('dit', 'ddpm'):
    struct = jax.eval_shape(build(name, augment_dim=3).init, jax.random.key(0), x, noise, label)
    assert 'augment_proj' in struct['params']['conditioning']
    init = functools.partial(build(name).init, augment=jnp.ones((4, 3)))
    with pytest.raises(ConfigError, match='augment_dim=0'):
      jax.eval_shape(init, jax.random.key(0), x, noise, label)


@pytest.mark.parametrize('name', ['dit', 'mlp', 'ddpm'])
def test_labels_for_an_unconditional_network_are_refused(name):
  with pytest.raises(ConfigError, match='num_classes=0'):
    jax.eval_shape(build(name, num_classes=0).init, jax.random.key(0), *batch())


@pytest.mark.parametrize(
  ('name', 'settings', 'message'),
  [
    ('dit', dict(widht=8), r"unknown setting network\.widht of 'dit'; did you mean 'width'"),
    ('dit', dict(heads=5), 'network.width=32 must be a multiple of 4 and of network.heads=5'),
    ('dit', dict(depth=0), 'network.depth=0 must be at least 1'),
    (
      'dit',
      dict(embedding='rope'),
      "embedding='rope' is unknown; known: adm, ddpm, fourier",
    ),
    ('mlp', dict(width=7), 'noise embedding must be even and 4 or more, got 7'),
    ('mlp', dict(depth=0), 'network.depth=0 must be at least 1'),
    ('ddpm', dict(multipliers=()), 'must be a tuple of 1 or more whole numbers'),
    ('ddpm', dict(up_attention='first'), "up_attention='first' is unknown"),
    ('dit', dict(dropout=1.5), r'network.dropout=1.5 must be in \[0, 1\)'),
    ('ddpm', dict(dropout=-0.1), r'network.dropout=-0.1 must be in \[0, 1\)'),
    ('mlp', dict(dropout=2.0), r'network.dropout=2.0 must be in \[0, 1\)'),
  ],
)
def test_bad_settings_are_refused_in_one_line(name, settings, message):
  with pytest.raises(ConfigError, match=message) as error:
    build(name, **settings)
  assert '\n' not in str(error.value)


@pytest.mark.parametrize(
  ('name', 'settings', 'side', 'message'),
  [
    ('dit', dict(patch=3), 8, 'patch=3 does not divide images of 8x8'),
    ('ddpm', dict(multipliers=(1, 1, 1, 1)), 28, 'multiples of 8, got 28x28; use fewer levels'),
    (
      'ddpm',
      dict(attention=(16,)),
      28,
      r'must name levels out of \(28, 14\), got 16',
    ),
    ('ddpm', dict(head_width=24), 8, 'head_width=24 does not divide 32 channels'),
  ],
)
def test_images_that_do_not_fit_are_refused_in_one_line(name, settings, side, message):
  network = build(name, num_classes=0, **settings)
  with pytest.raises(ConfigError, match=message) as error:
    jax.eval_shape(network.init, jax.random.key(0), jnp.zeros((1, side, side, 1)), jnp.zeros(1))
  assert '\n' not in str(error.value)


def test_every_setting_has_a_default_except_the_given_ones():
  for constructor in NETWORKS.values():
    parameters = inspect.signature(constructor).parameters.values()
    required = {p.name for p in parameters if p.default is inspect.Parameter.empty}
    assert required <= {'out_channels'}
