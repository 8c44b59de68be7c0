"""Causality, caches and parameter counts of the recurrent and convolutional networks."""

import functools
import math

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from autoregressive.heads.categorical import Categorical
from autoregressive.model import Model
from autoregressive.networks import NETWORKS
from autoregressive.networks.base import CausalNetwork
from autoregressive.networks.rnn import GRU, LSTM, RNN
from autoregressive.networks.tcn import TCN
from autoregressive.networks.transformer import Transformer
from tests.autoregressive.common import perturbed
from tests.cases import mostly_slow

LENGTH, WIDTH = 12, 8

VARIANTS = {
  'rnn': RNN(WIDTH, layers=2),
  'lstm': LSTM(WIDTH, layers=2),
  'gru': GRU(WIDTH, layers=2),
  'tcn': TCN(WIDTH, layers=2, kernel=2, growth=2),
  'tcn_plain': TCN(WIDTH, layers=2, kernel=3, growth=3, weight_norm=False),
  'tcn_gated': TCN(WIDTH, layers=2, kernel=2, growth=2, gated=True),
}


@functools.cache
def network_of(variant):
  network = VARIANTS[variant]
  h = jax.random.normal(jax.random.key(0), (2, LENGTH, WIDTH))
  params = perturbed(jax.jit(network.init)(jax.random.key(1), h)['params'], 0.3)
  return network, params, h, run(network, params, h)


@functools.partial(jax.jit, static_argnums=0)
def run(network, params, h, segments=None):
  hidden, cache = network.apply({'params': params}, h, segments=segments)
  assert cache is None
  return hidden


@pytest.mark.parametrize('variant', mostly_slow(VARIANTS, VARIANTS.keys() - {'lstm', 'gru'}))
def test_causal_by_gradient(variant):
  """An input changes the hidden states from its own position on, within the receptive field."""
  network, params, h, _ = network_of(variant)
  directions = jax.random.normal(jax.random.key(2), (4, WIDTH))

  def read(h):
    return (network.apply({'params': params}, h)[0][0] @ directions.T).swapaxes(0, 1)

  table = np.asarray(jnp.abs(jax.jit(jax.jacrev(read))(h[:1])).sum((0, 2, 4)))
  reach = LENGTH
  if isinstance(network, TCN):
    reach = (network.kernel - 1) * sum(network.dilations)
  distance = np.arange(LENGTH)[:, None] - np.arange(LENGTH)[None]
  seen = (distance >= 0) & (distance <= reach)
  assert (table[~seen] == 0).all()
  assert (np.diag(table) > 0).all()
  if reach < LENGTH:  # the farthest input of the receptive field counts
    assert (table[distance == reach] > 0).any()


@pytest.mark.parametrize('variant', VARIANTS)
def test_cached_equals_uncached(variant):
  network, params, h, hidden = network_of(variant)
  extend = jax.jit(lambda h, cache: network.apply({'params': params}, h, cache))
  for parts in ((1,) * LENGTH, (5, 2, 1, 4)):  # 2 and 4: a dilation of 1 or 3, and one more
    made, start, cache = [], 0, network.init_cache(2, LENGTH)
    for size in parts:
      part, cache = extend(h[:, start : start + size], cache)
      made.append(part)
      start += size
    np.testing.assert_allclose(jnp.concatenate(made, 1), hidden, atol=2e-5)


@pytest.mark.parametrize('variant', VARIANTS)
def test_packed_documents_see_only_themselves(variant):
  network, params, h, hidden = network_of(variant)
  segments = jnp.array([[0] * 5 + [1] * 7, [3] * 2 + [4] * 10])
  packed = run(network, params, h, segments)
  for row, cut in ((0, 5), (1, 2)):
    second = run(network, params, jnp.roll(h, -cut, axis=1))[row, : LENGTH - cut]
    expected = jnp.concatenate([hidden[row, :cut], second])
    np.testing.assert_allclose(packed[row], expected, atol=2e-5)


@pytest.mark.parametrize('variant', ['lstm', 'tcn'])
def test_dropout_needs_training(variant):
  network, params, h, hidden = network_of(variant)
  network = network.clone(dropout=0.5)
  np.testing.assert_allclose(run(network, params, h), hidden, atol=1e-6)
  rngs = {'dropout': jax.random.key(0)}
  dropped = network.apply({'params': params}, h, train=True, rngs=rngs)[0]
  assert float(jnp.abs(dropped - hidden).max()) > 0.1


@pytest.mark.parametrize(
  ('network', 'tied', 'deviation'),
  [
    (LSTM(64, 1), False, 1.0),
    (RNN(64, 1), False, 0.02),  # a tanh saturates
    (TCN(64, 1, kernel=2), False, 1.0),
    (TCN(64, 1, kernel=2), True, 0.02),  # the outputs begin small
    (Transformer(8, width=64, layers=1, heads=1), False, 0.02),  # a norm follows
  ],
)
def test_embedded_tokens_begin_at_unit_scale_unless_a_norm_follows(network, tied, deviation):
  model = Model(network, Categorical(1, 50), 1, 50, tied=tied)
  emissions = jax.random.randint(jax.random.key(0), (4, 50, 1), 0, 50)
  params = model.init(jax.random.key(1), emissions)
  inputs = model.apply(params, emissions, method=Model.embed)
  assert float(inputs.std()) == pytest.approx(deviation, rel=0.05)


@pytest.mark.parametrize('whole', [True, False])
def test_tcn_drops_whole_channels_or_single_numbers(whole):
  network, params, h, _ = network_of('tcn_plain')
  params, h = jax.tree.map(lambda x: jnp.abs(x) + 0.1, (params, h))  # no unit is off by itself
  _, made = network.clone(dropout=0.5, drop_channels=whole).apply(
    {'params': params},
    h,
    train=True,
    rngs={'dropout': jax.random.key(0)},
    capture_intermediates=lambda module, _: isinstance(module, nn.Dropout),
    mutable=['intermediates'],
  )
  for dropped in jax.tree.leaves(made):
    off = np.asarray(dropped == 0)
    alike = (off == off[:, :1]).all()
    assert alike if whole else not alike
    assert 0.1 < off.mean() < 0.9


@pytest.mark.parametrize('kind', [RNN, LSTM, GRU])
def test_carries_stay_in_float32(kind):
  network = kind(WIDTH, layers=1, dtype='bfloat16')
  h = jax.random.normal(jax.random.key(0), (2, 3, WIDTH))
  cache = network.init_cache(2, 3)
  params = jax.jit(network.init)(jax.random.key(1), h)['params']
  hidden, after = network.apply({'params': params}, h, cache)
  assert {x.dtype for x in jax.tree.leaves((cache, after))} == {jnp.dtype('float32')}
  assert hidden.dtype == jnp.bfloat16


@pytest.mark.parametrize(('weight_norm', 'gated'), [(False, False), (True, False), (True, True)])
def test_tcn_by_its_equations(weight_norm, gated):
  """Two blocks against dilated convolutions by XLA."""
  network = TCN(WIDTH, layers=2, kernel=3, growth=2, weight_norm=weight_norm, gated=gated)
  _, _, h, _ = network_of('tcn')
  params = perturbed(jax.jit(network.init)(jax.random.key(1), h)['params'], 0.1)

  def convolve(x, i):
    dense, dilation = params[f'Dense_{i}'], 2 ** (i // 2)
    kernel = dense['kernel']
    if weight_norm:  # Salimans & Kingma 2016: each output has a direction and a length
      (length,) = params[f'WeightNorm_{i}'].values()
      kernel = length * kernel / jnp.sqrt(jnp.square(kernel).sum(0))
    kernel = kernel.reshape(3, WIDTH, -1)
    made = jax.lax.conv_general_dilated(
      x, kernel, (1,), [(2 * dilation, 0)], rhs_dilation=(dilation,),
      dimension_numbers=('NWC', 'WIO', 'NWC'),
    )  # fmt: skip
    made += dense['bias']
    if gated:  # Dauphin et al. 2017: half of the channels are gates of the others
      return made[..., :WIDTH] / (1 + jnp.exp(-made[..., WIDTH:]))
    return jax.nn.relu(made)

  x = h
  for block in range(2):
    x = jax.nn.relu(x + convolve(convolve(x, 2 * block), 2 * block + 1))
  np.testing.assert_allclose(run(network, params, h), x, atol=1e-5)


@pytest.mark.parametrize(
  'network, parameters',
  [
    (RNN(16, layers=3), 3 * (2 * 16 * 16 + 16)),
    (LSTM(16, layers=3), 3 * 4 * (2 * 16 * 16 + 16)),
    (GRU(16, layers=3), 3 * (3 * (2 * 16 * 16 + 16) + 16)),  # a second bias of the candidate
    (TCN(16, layers=3, kernel=4), 6 * (4 * 16 * 16 + 16 + 16)),  # kernel, length, bias
    (TCN(16, layers=3, kernel=4, gated=True), 6 * (4 * 16 * 32 + 32 + 32)),
  ],
)
def test_parameters(network, parameters):
  shapes = jax.eval_shape(network.init, jax.random.key(0), jnp.zeros((1, 4, 16)))
  assert sum(math.prod(x.shape) for x in jax.tree.leaves(shapes)) == parameters


def test_every_causal_network_has_the_members_of_the_base_class():
  for constructor in NETWORKS.values():
    assert issubclass(constructor, CausalNetwork)
  lstm, transformer = LSTM(WIDTH), Transformer(LENGTH, WIDTH)
  assert lstm.sequential and not lstm.can_rewind and lstm.max_length is None
  assert lstm.output_scale == 1 and lstm.grid is None
  with pytest.raises(NotImplementedError, match='the cache of LSTM cannot be rewound'):
    lstm.rewind(lstm.init_cache(1, LENGTH), jnp.int32(1))
  assert transformer.can_rewind and not transformer.sequential
  assert transformer.max_length == LENGTH
  assert lstm.unroll({}) == (lstm, {})


def test_caches_do_not_grow_with_the_length():
  for network in VARIANTS.values():
    short, long = network.init_cache(2, 10), network.init_cache(2, 10_000)
    assert jax.tree.map(jnp.shape, short) == jax.tree.map(jnp.shape, long)
