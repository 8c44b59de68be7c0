"""Recurrent networks against flax's cells, position by position, and their gradients."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from autoregressive.networks.rnn import GRU, LSTM, RNN
from tests.autoregressive.common import perturbed
from tests.cases import mostly_slow

WIDTH, LENGTH = 8, 12
NETWORKS = {'rnn': RNN, 'lstm': LSTM, 'gru': GRU}
# The second document of the first sequence starts at position 5.
DOCUMENTS = jnp.array([[0] * 5 + [1] * 7, [0] * LENGTH])


@functools.cache
def network_of(name):
  """(the network, its parameters, its inputs)."""
  network = NETWORKS[name](WIDTH, layers=2)
  h = jax.random.normal(jax.random.key(0), (2, LENGTH, WIDTH))
  return network, perturbed(jax.jit(network.init)(jax.random.key(1), h)['params'], 0.3), h


def by_flax(network, params, h, segments=None):
  """The same layers with flax's cells, called at one position after the other."""
  cell = network.cell(WIDTH, parent=None)
  for layer in range(network.layers):
    carry = first = cell.initialize_carry(jax.random.key(0), h[:, 0].shape)
    states = []
    for i in range(h.shape[1]):
      if segments is not None and i:
        same = (segments[:, i] == segments[:, i - 1])[:, None]
        carry = jax.tree.map(lambda x, zero: jnp.where(same, x, zero), carry, first)  # noqa: B023
      carry, state = cell.apply({'params': params[f'layer_{layer}']['cell']}, carry, h[:, i])
      states.append(state)
    h = jnp.stack(states, 1)
  return h


def by_us(network, params, h, segments=None):
  return network.apply({'params': params}, h, segments=segments)[0]


@pytest.mark.parametrize('documents', mostly_slow(['one', 'two'], ['two']))
@pytest.mark.parametrize('name', NETWORKS)
def test_outputs_and_gradients_are_those_of_flax_cells(name, documents):
  network, params, h = network_of(name)
  segments = DOCUMENTS if documents == 'two' else None
  weights = jax.random.normal(jax.random.key(2), h.shape)

  def found(run):
    def weighted(params, h):
      made = run(network, params, h, segments)
      return jnp.sum(weights * made), made

    (_, made), gradients = jax.jit(jax.value_and_grad(weighted, (0, 1), has_aux=True))(params, h)
    return made, gradients

  ours, theirs = found(by_us), found(by_flax)
  for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
    np.testing.assert_allclose(a, b, rtol=1e-4, atol=2e-5)


@pytest.mark.parametrize('name', NETWORKS)
def test_parameters_are_those_of_the_flax_cell(name):
  network, params, h = network_of(name)
  cell = network.cell(WIDTH, parent=None)
  carry = cell.initialize_carry(jax.random.key(0), h[:, 0].shape)
  theirs = cell.init(jax.random.key(1), carry, h[:, 0])['params']
  for layer in params.values():
    assert jax.tree.map(jnp.shape, layer['cell']) == jax.tree.map(jnp.shape, theirs)
  # Recurrent kernels start orthogonal, and input kernels with the variance of LeCun et al.
  wide = NETWORKS[name](64, layers=1)
  first = jax.jit(wide.init)(jax.random.key(1), jnp.zeros((1, 2, 64)))['params']['layer_0']['cell']
  for product, leaves in first.items():
    kernel = np.asarray(leaves['kernel'])
    if product.startswith('h'):
      np.testing.assert_allclose(kernel @ kernel.T, np.eye(64), atol=1e-5)
    else:
      assert np.std(kernel) == pytest.approx(1 / 8, rel=0.05)


@pytest.mark.parametrize('name', mostly_slow(NETWORKS, ['lstm']))
def test_the_gradient_reaches_the_cache(name):
  """The carry of an earlier part is an input like any other."""
  network, params, h = network_of(name)
  weights = jax.random.normal(jax.random.key(2), h[:, 5:].shape)

  @jax.jit
  @jax.grad
  def in_parts(params):
    _, cache = network.apply({'params': params}, h[:, :5], network.init_cache(2, LENGTH))
    return jnp.sum(weights * network.apply({'params': params}, h[:, 5:], cache)[0])

  @jax.jit
  @jax.grad
  def at_once(params):
    return jnp.sum(weights * by_us(network, params, h)[:, 5:])

  for a, b in zip(jax.tree.leaves(in_parts(params)), jax.tree.leaves(at_once(params)), strict=True):
    np.testing.assert_allclose(a, b, rtol=1e-4, atol=2e-5)


def test_the_gradient_of_the_recurrent_kernel_is_one_product():
  """No loop adds an outer product to it at each position."""
  network, params, h = network_of('lstm')
  gradient = jax.make_jaxpr(jax.grad(lambda p: by_us(network, p, h).sum()))(params)
  loops = [eqn for eqn in gradient.eqns if eqn.primitive.name == 'scan']
  assert len(loops) == 2 * network.layers  # forwards and backwards
  shapes = {v.aval.shape for eqn in loops for v in eqn.outvars}
  assert (WIDTH, 4 * WIDTH) not in shapes
