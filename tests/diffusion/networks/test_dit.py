import jax
import jax.numpy as jnp
import numpy as np

from diffusion.networks.dit import patchify, sincos_positions, unpatchify
from tests.diffusion.networks.small import batch, build, quick_jit, random_params


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


def test_patches_are_cut_row_by_row_and_put_back():
  x = jnp.arange(2 * 4 * 6 * 3.0).reshape(2, 4, 6, 3)
  tokens = patchify(x, 2)
  np.testing.assert_array_equal(tokens[1, 4], x[1, 2:4, 2:4].reshape(-1))
  np.testing.assert_array_equal(unpatchify(tokens, 2, (4, 6, 3)), x)


def test_positions_depend_on_row_and_column_by_halves():
  table = sincos_positions(2, 3, 8).reshape(2, 3, 8)
  np.testing.assert_allclose(table[1, 2, :4], [np.sin(2), np.sin(0.02), np.cos(2), np.cos(0.02)])
  np.testing.assert_allclose(table[1, 2, 4:], [np.sin(1), np.sin(0.01), np.cos(1), np.cos(0.01)])
