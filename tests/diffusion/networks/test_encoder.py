"""The encoder half of a U-Net, and its pooling against one written independently in numpy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from common.config import ConfigError, component
from configs.papers.guidance import ADM_CLASSIFIER
from diffusion.networks import CLASSIFIERS
from diffusion.networks.blocks import GLOROT
from diffusion.networks.encoder import AttentionPool
from tests.diffusion.networks.small import batch, quick_jit, random_like

SMALL = dict(name='unet_encoder', width=16, multipliers=(1, 2), blocks=1, head_width=8)


def build(**changes):
  return component(CLASSIFIERS, SMALL | changes, 'network', out_channels=3, num_classes=0)


def test_the_size_of_the_classifier_of_adm_is_the_published_one():
  """65M (Dhariwal & Nichol 2021), at 64×64 with 1,000 classes."""
  network = component(
    CLASSIFIERS, ADM_CLASSIFIER['network'], 'network', out_channels=1000, num_classes=0
  )
  x = jax.ShapeDtypeStruct((1, 64, 64, 3), jnp.float32)
  noise = jax.ShapeDtypeStruct((1,), jnp.float32)
  params = jax.eval_shape(network.init, jax.random.key(0), x, noise)
  assert round(sum(leaf.size for leaf in jax.tree.leaves(params)) / 1e6) == 65


def pooled(x, p):
  """As in the authors' code: every token has a query, and only the first output is kept."""
  pixels = x.reshape(len(x), -1, x.shape[-1])
  tokens = np.concatenate([pixels.mean(1)[:, None], pixels], axis=1) + p['position']
  (key, value), (key_bias, value_bias) = (
    np.moveaxis(p['key_value'][name], axis, 0) for name, axis in (('kernel', 1), ('bias', 0))
  )
  query = np.einsum('ntc,chd->nthd', tokens, p['query']['kernel']) + p['query']['bias']
  key = np.einsum('ntc,chd->nthd', tokens, key) + key_bias
  value = np.einsum('ntc,chd->nthd', tokens, value) + value_bias
  logits = np.einsum('nqhd,nkhd->nhqk', query, key) / np.sqrt(query.shape[-1])
  weights = np.exp(logits - logits.max(-1, keepdims=True))
  weights /= weights.sum(-1, keepdims=True)
  h = np.einsum('nhqk,nkhd->nqhd', weights, value).reshape(*tokens.shape)
  return (h @ p['out']['kernel'] + p['out']['bias'])[:, 0]


def test_attention_pooling_by_hand():
  x = jax.random.normal(jax.random.key(1), (2, 3, 3, 8))
  layer = AttentionPool(5, head_width=4, kernel_init=GLOROT)
  params = random_like(jax.eval_shape(layer.init, jax.random.key(0), x)['params'], 2)
  found = layer.apply({'params': params}, x)
  expected = pooled(*jax.tree.map(lambda a: np.asarray(a, np.float64), (x, params)))
  np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize('pool', ['attention', 'mean'])
def test_the_logits_of_an_image_depend_on_its_pixels_and_its_noise(pool):
  network = build(pool=pool)
  x, noise, _ = batch(2)
  params = random_like(jax.eval_shape(network.init, jax.random.key(0), x, noise)['params'], 0)
  run = quick_jit(lambda *inputs: network.apply({'params': params}, *inputs))
  y = run(x, noise)
  assert y.shape == (2, 3) and y.dtype == jnp.float32
  first = run(x.at[1].add(1.0), noise)
  np.testing.assert_allclose(first[0], y[0], rtol=1e-4)
  assert np.abs(first[1] - y[1]).max() > 1e-3
  assert np.abs(run(x, noise + 100) - y).max() > 1e-3


def test_heads_that_do_not_fit_are_refused():
  with pytest.raises(ConfigError, match='head_width=5 does not divide 32 channels'):
    jax.eval_shape(build(head_width=5).init, jax.random.key(0), *batch(1)[:2])
  layer, x = AttentionPool(5, head_width=3, kernel_init=GLOROT), jnp.zeros((1, 2, 2, 8))
  with pytest.raises(ConfigError, match='head_width=3 does not divide 8 channels'):
    jax.eval_shape(layer.init, jax.random.key(0), x)
