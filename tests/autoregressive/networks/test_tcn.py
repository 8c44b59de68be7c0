"""The TCN against the paper's network in PyTorch, with the same weights."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from autoregressive.networks.tcn import TCN

pytestmark = pytest.mark.peers
torch = pytest.importorskip('torch')

WIDTH, LAYERS, KERNEL = 6, 3, 3


def of_pytorch(network):
  """The weights of the network in PyTorch, as parameters of ours."""
  params = {}
  for block in network:
    for convolution in block.convolutions:
      number = len(params) // 2
      length, direction = (
        x.detach().numpy()
        for x in (
          convolution.parametrizations.weight.original0,
          convolution.parametrizations.weight.original1,
        )
      )
      # Theirs are [out, in, taps], ours [taps · in, out], the oldest tap first in both.
      kernel = direction.transpose(2, 1, 0).reshape(-1, WIDTH)
      params[f'Dense_{number}'] = {'kernel': kernel, 'bias': convolution.bias.detach().numpy()}
      params[f'WeightNorm_{number}'] = {f'Dense_{number}/kernel/scale': length.ravel()}
  return params


def test_outputs_and_gradients_are_those_of_the_papers_network():
  from tests.autoregressive.networks import tcn_in_pytorch

  torch.manual_seed(0)
  theirs = tcn_in_pytorch.blocks(WIDTH, WIDTH, LAYERS, KERNEL, dropout=0.0)
  ours, params = TCN(WIDTH, LAYERS, KERNEL), of_pytorch(theirs)
  h = jax.random.normal(jax.random.key(0), (2, 20, WIDTH))
  shapes = jax.eval_shape(ours.init, jax.random.key(0), h)['params']
  assert jax.tree.map(np.shape, params) == jax.tree.map(np.shape, shapes)

  def mean_square(params, h):
    return jnp.square(ours.apply({'params': params}, h)[0]).mean()

  inputs = torch.tensor(np.transpose(h, (0, 2, 1)), requires_grad=True)
  outputs = theirs(inputs)
  expected = outputs.detach().numpy().transpose(0, 2, 1)
  np.testing.assert_allclose(ours.apply({'params': params}, h)[0], expected, atol=1e-5)
  outputs.square().mean().backward()
  found, to_inputs = jax.grad(mean_square, argnums=(0, 1))(params, h)
  np.testing.assert_allclose(to_inputs, inputs.grad.numpy().transpose(0, 2, 1), atol=1e-6)
  for number, convolution in enumerate(c for block in theirs for c in block.convolutions):
    length = convolution.parametrizations.weight.original0.grad.numpy().ravel()
    scale = found[f'WeightNorm_{number}'][f'Dense_{number}/kernel/scale']
    np.testing.assert_allclose(scale, length, atol=1e-6)
