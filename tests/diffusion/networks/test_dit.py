import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffusion.networks.conditioning import Conditioning
from diffusion.networks.dit import BLOCKS, CrossAttention
from tests.diffusion.networks.small import batch, build, quick_jit, random_like, random_params


def test_scanned_blocks_equal_a_loop_over_blocks():
  scanned, looped = build('dit'), build('dit', scan=False)
  params = random_params(scanned)
  unstacked = {k: v for k, v in params.items() if k != 'blocks'}
  for i in range(scanned.depth):
    unstacked[f'block_{i}'] = jax.tree.map(lambda a, i=i: a[i], params['blocks'])
  loss = lambda network, params: jnp.sum(jnp.sin(network.apply({'params': params}, *batch())))
  value, grads = quick_jit(jax.value_and_grad(lambda p: loss(scanned, p)))(params)
  other, other_grads = quick_jit(jax.value_and_grad(lambda p: loss(looped, p)))(unstacked)
  np.testing.assert_allclose(value, other, rtol=1e-5)
  stacked = jax.tree.map(
    lambda *leaves: jnp.stack(leaves), *(other_grads[f'block_{i}'] for i in range(scanned.depth))
  )
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-4), grads['blocks'], stacked
  )


def test_layers_of_a_scan_start_differently():
  params = quick_jit(build('dit').init)(jax.random.key(0), *batch())['params']
  kernel = params['blocks']['up']['kernel']
  assert np.abs(kernel[0] - kernel[1]).max() > 0.01


@pytest.mark.slow
def test_every_block_is_the_identity_at_initialisation():
  x, noise, label = batch()
  shallow, deep = build('dit', depth=1), build('dit', depth=3)
  params = {
    n: quick_jit(n.init)(jax.random.key(0), x, noise, label)['params'] for n in (shallow, deep)
  }
  assert not np.any(params[deep]['blocks']['modulation']['kernel'])
  key = jax.random.key(1)
  outer = jax.tree.map(lambda a: jax.random.normal(key, a.shape), dict(params[deep]))
  y = [
    quick_jit(n.apply)({'params': outer | {'blocks': params[n]['blocks']}}, x, noise, label)
    for n in (shallow, deep)
  ]
  np.testing.assert_array_equal(*y)


@pytest.mark.parametrize('block', BLOCKS)
def test_a_block_is_told_the_noise_and_the_class(block):
  """Both change the estimate of every example, and a scan equals a loop."""
  network = build('dit', block=block, depth=1)
  params, (x, noise, label) = random_params(network), batch()
  apply = quick_jit(lambda noise, label: network.apply({'params': params}, x, noise, label))
  y = apply(noise, label)
  assert y.shape == (4, 8, 8, 2)
  for other in (apply(noise + 50, label), apply(noise, (label + 1) % 5)):
    assert np.abs(other - y).max(axis=(1, 2, 3)).min() > 1e-3
  looped = build('dit', block=block, depth=1, scan=False)
  unstacked = params | {'block_0': jax.tree.map(lambda a: a[0], params['blocks'])}
  other = looped.apply({'params': unstacked}, x, noise, label)
  np.testing.assert_allclose(other, y, rtol=1e-4, atol=1e-4)


def test_cross_attention_to_one_token_adds_its_value():
  cross = CrossAttention(2, 'float32')
  h, token = (
    jax.random.normal(jax.random.key(n), s) for n, s in ((0, (2, 6, 32)), (1, (2, 1, 32)))
  )
  p = random_like(jax.eval_shape(cross.init, jax.random.key(0), h, token)['params'])
  value = np.einsum('bcd,dhe->bche', token, p['kv']['kernel'][:, 1]) + p['kv']['bias'][1]
  expected = np.einsum('bche,hed->bcd', value, p['out']['kernel']) + p['out']['bias']
  made = cross.apply({'params': p}, h, token)
  np.testing.assert_allclose(made, np.broadcast_to(expected, made.shape), rtol=1e-4, atol=1e-5)


def test_a_network_of_one_patch_by_hand():
  """A single patch attends to itself only: the attention returns its value."""
  network = build('dit', patch=8, depth=1, scan=False)
  params, (x, noise, label) = random_params(network), batch()
  conditioning = Conditioning(32, 'adm', 256, 5)
  condition = conditioning.apply({'params': params['conditioning']}, noise, label)
  p = jax.tree.map(np.asarray, {name: params[name] for name in params if name != 'conditioning'})
  block = p['block_0']
  dense = lambda h, layer: h @ layer['kernel'] + layer['bias']
  silu, norm = (
    lambda h: h / (1 + np.exp(-h)),
    lambda h: (h - h.mean(-1, keepdims=True)) / np.sqrt(h.var(-1, keepdims=True) + 1e-6),
  )
  # The approximation by a tanh (Hendrycks & Gimpel 2016).
  gelu = lambda h: 0.5 * h * (1 + np.tanh(np.sqrt(2 / np.pi) * (h + 0.044715 * h**3)))
  condition = silu(np.asarray(condition))
  shift1, scale1, gate1, shift2, scale2, gate2 = np.split(
    dense(condition, block['modulation']), 6, 1
  )
  h = dense(np.asarray(x).reshape(4, 64), p['patch_embed']) + np.tile([0.0] * 8 + [1.0] * 8, 2)
  inner = norm(h) * (1 + scale1) + shift1
  qkv = {name: leaf.reshape(*leaf.shape[:-3], 96)[..., 64:] for name, leaf in block['qkv'].items()}
  out = {'kernel': block['out']['kernel'].reshape(32, 32), 'bias': block['out']['bias']}
  h = h + gate1 * dense(dense(inner, qkv), out)
  inner = norm(h) * (1 + scale2) + shift2
  h = h + gate2 * dense(gelu(dense(inner, block['up'])), block['down'])
  shift, scale = np.split(dense(condition, p['modulation']), 2, 1)
  expected = dense(norm(h) * (1 + scale) + shift, p['output_proj']).reshape(4, 8, 8, 2)
  made = quick_jit(network.apply)({'params': params}, x, noise, label)
  np.testing.assert_allclose(made, expected, rtol=1e-4, atol=1e-4)
