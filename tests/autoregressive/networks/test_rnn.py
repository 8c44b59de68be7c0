"""Recurrent networks against flax's cells, position by position, and their gradients."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from autoregressive.networks import rnn
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


@pytest.mark.parametrize('name', NETWORKS)
def test_the_gradient_is_that_of_jax(name):
  """With a carry of an earlier part, resets in both sequences, and a loss of the last carry."""
  network, params, h = network_of(name)
  cell = params['layer_0']['cell']
  gates = network.input_gates(cell, h).swapaxes(0, 1)
  kernel = rnn.join_products(cell, network.hidden_products, 'kernel')
  carry = jax.tree.map(lambda x: x + 0.5, network.init_cache(2, LENGTH)[0])
  starts = np.zeros((LENGTH, 2), bool)
  starts[0, 0] = starts[5, 1] = True
  weights = jax.random.normal(jax.random.key(2), (LENGTH, 2, WIDTH))

  def loss(run, kernel, carry, gates):
    end, states = run(network.step, kernel, carry, gates, jnp.asarray(starts))
    return jnp.sum(weights * states) + sum(jnp.sum(weights[0] * x) for x in end)

  ours, jaxs = (
    jax.jit(jax.grad(functools.partial(loss, run), (0, 1, 2)))(kernel, carry, gates)
    for run in (rnn.recurrence, rnn.run)
  )
  assert all(np.abs(x).max() > 0.1 for x in jax.tree.leaves(ours))
  for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(jaxs), strict=True):
    np.testing.assert_allclose(a, b, rtol=1e-4, atol=2e-5)


@pytest.mark.parametrize('name', ['lstm', 'gru'])
def test_a_memory_adds_up_in_16_bits(name):
  """Small parts of a sum over 2,000 positions; in bfloat16, sums would stop at 0.5 and 0.75."""
  network = NETWORKS[name](WIDTH, layers=1, dtype='bfloat16')
  h = jnp.zeros((1, 2000, WIDTH))
  params = jax.tree.map(
    jnp.zeros_like, jax.eval_shape(network.init, jax.random.key(0), h)['params']
  )
  cell = params['layer_0']['cell']
  if name == 'lstm':  # the memory gets 1/512 at each position
    biases, expected = {'hi': 20.0, 'hf': 20.0, 'hg': 1 / 512}, 2000 / 512
  else:  # the state comes nearer to 1 by 1/128 of the distance at each position
    biases, expected = {'iz': np.log(127), 'in': 20.0}, 1.0
  for product, value in biases.items():
    cell[product]['bias'] = cell[product]['bias'] + value
  carry = network.apply({'params': params}, h, network.init_cache(1, 2000))[1][0]
  np.testing.assert_allclose(carry[0], expected, rtol=0.02)


@pytest.mark.parametrize('name', mostly_slow(NETWORKS, ['gru']))
def test_16_bits_are_near_flax_cells(name):
  network, params, h = network_of(name)
  rounded = NETWORKS[name](WIDTH, layers=2, dtype='bfloat16')
  np.testing.assert_allclose(
    by_us(rounded, params, h), by_flax(network, params, h), rtol=0.05, atol=0.03
  )


@pytest.mark.parametrize('name', NETWORKS)
def test_the_gradient_of_the_recurrent_kernel_is_one_product(name):
  """No loop adds a product to it at each position."""
  network, params, h = network_of(name)
  gradient = jax.make_jaxpr(jax.grad(lambda p: by_us(network, p, h).sum()))(params)
  loops = [eqn for eqn in gradient.eqns if eqn.primitive.name == 'scan']
  assert len(loops) == 2 * network.layers  # forwards and backwards
  shapes = {v.aval.shape for eqn in loops for v in eqn.outvars}
  assert (WIDTH, len(network.hidden_products) * WIDTH) not in shapes
