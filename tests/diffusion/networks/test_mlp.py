import numpy as np

from diffusion.networks.conditioning import Conditioning
from tests.diffusion.networks.small import batch, build, quick_jit, random_params


def test_the_residual_blocks_by_hand():
  """h + W·silu(V·silu(norm(h) + U·silu(condition))) in each of two blocks."""
  network, (x, noise, label) = build('mlp'), batch()
  params = random_params(network)
  condition = Conditioning(32, 'adm', 32, 5).apply({'params': params['conditioning']}, noise, label)
  silu = lambda h: h / (1 + np.exp(-h))

  def dense(h, number):
    layer = params[f'Dense_{number}']
    return h @ np.asarray(layer['kernel']) + np.asarray(layer['bias'])

  def norm(h, number):
    layer = params[f'LayerNorm_{number}']
    h = (h - h.mean(-1, keepdims=True)) / np.sqrt(h.var(-1, keepdims=True) + 1e-6)
    return h * np.asarray(layer['scale']) + np.asarray(layer['bias'])

  h = dense(np.asarray(x).reshape(4, 64), 0)
  for block in range(2):
    inner = norm(h, block) + dense(silu(np.asarray(condition)), 3 * block + 1)
    h = h + dense(silu(dense(silu(inner), 3 * block + 2)), 3 * block + 3)
  expected = dense(norm(h, 2), 7).reshape(4, 8, 8, 2)
  made = quick_jit(network.apply)({'params': params}, x, noise, label)
  np.testing.assert_allclose(made, expected, rtol=1e-4, atol=1e-4)
