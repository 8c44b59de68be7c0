"""Causality, caches, positions and parameter counts of the transformer."""

import functools
import math
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AbstractDevice, AbstractMesh

from autoregressive.heads.categorical import Bernoulli, Categorical
from autoregressive.model import Model
from autoregressive.networks import NETWORKS, build_network
from autoregressive.networks import positions as pos
from autoregressive.networks.base import EMBED_STD
from autoregressive.networks.transformer import ACTIVATIONS, Transformer
from common.config import ConfigError, component
from common.devices.mesh import AXES
from tests.autoregressive.common import perturbed
from tests.cases import mostly_slow, slow

LENGTH, WIDTH = 12, 32

VARIANTS = {
  'gpt2': dict(),
  'gpt2_post': dict(norm_position='post', activation='gelu'),
  'sinusoidal_relu2': dict(positions='sinusoidal', activation='relu2', bias=False),
  'llama': dict(positions='rotary', norm='rms', activation='swiglu', bias=False, kv_heads=2),
  'llama3': dict(positions='rotary', rotary_scaling=('llama3', 8.0, 8), kv_heads=1, qk_norm=True),
  'alibi_window': dict(positions='alibi', window=4, attention_cap=5.0, activation='geglu'),
  'none_window': dict(positions='none', window=1),
  'scan': dict(positions='rotary', scan=True),
  'scan_remat': dict(scan=True, remat='nothing'),
  'remat': dict(remat='products', head_dim=16),
  'bfloat16': dict(dtype='bfloat16'),
}


@functools.cache
def network_of(variant):
  network = Transformer(**dict(length=LENGTH, width=WIDTH, layers=2, heads=4) | VARIANTS[variant])
  h = jax.random.normal(jax.random.key(0), (2, LENGTH, WIDTH))
  params = perturbed(jax.jit(network.init)(jax.random.key(1), h)['params'], 0.1)
  return network, params, h


@functools.cache
def hidden_of(variant):
  network, params, h = network_of(variant)
  return run(network, params, h)


@functools.partial(jax.jit, static_argnums=0)
def run(network, params, h, segments=None):
  """Hidden states of a whole sequence, without a cache."""
  hidden, cache = network.apply({'params': params}, h, segments=segments)
  assert cache is None
  return hidden


# The most different networks; the others are settings of them, or compute them in another way.
QUICK = ('gpt2', 'llama', 'alibi_window')


@pytest.mark.parametrize('variant', mostly_slow(VARIANTS, QUICK))
def test_causal_by_gradient(variant):
  network, params, h = network_of(variant)

  def influence(i):
    """How hidden[i] depends on each input, summed over a random direction."""
    direction = jax.random.normal(jax.random.key(2), (WIDTH,))
    gradient = jax.grad(lambda h: (network.apply({'params': params}, h)[0][:, i] @ direction).sum())
    return jnp.abs(gradient(h)).sum((0, 2))

  table = np.asarray(jax.jit(jax.vmap(influence))(jnp.arange(LENGTH)))
  reach = network.layers * (network.window - 1) if network.window else LENGTH
  distance = np.arange(LENGTH)[:, None] - np.arange(LENGTH)[None]
  seen = (distance >= 0) & (distance <= reach)
  assert (table[~seen] == 0).all()
  assert (table[seen] > 0).all()


@pytest.mark.parametrize('variant', mostly_slow(VARIANTS, QUICK))
def test_cached_equals_uncached(variant):
  """In one part, token by token, and in chunks, with more room in the cache than is used."""
  network, params, h = network_of(variant)
  extend = jax.jit(lambda h, cache: network.apply({'params': params}, h, cache))
  for parts in ((1,) * LENGTH, (5, 1, 6)):
    made, start, cache = [], 0, network.init_cache(2, LENGTH + 3)
    for size in parts:
      part, cache = extend(h[:, start : start + size], cache)
      made.append(part)
      start += size
    tolerance = 0.05 if network.dtype == 'bfloat16' else 2e-5
    np.testing.assert_allclose(jnp.concatenate(made, 1), hidden_of(variant), atol=tolerance)
    assert int(cache.index) == LENGTH


def test_layers_scanned_and_unrolled_agree():
  network, params, h = network_of('scan')
  flat, flat_params = network.unroll(params)
  assert not flat.scan
  np.testing.assert_allclose(run(flat, flat_params, h), run(network, params, h), atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize('scan', [False, *slow([True])])
def test_remat_recomputes_the_products_that_it_does_not_keep(scan):
  plain = Transformer(LENGTH, WIDTH, layers=2, scan=scan)
  h = jax.random.normal(jax.random.key(0), (2, LENGTH, WIDTH))
  params = perturbed(jax.jit(plain.init)(jax.random.key(1), h)['params'], 0.1)
  products, gradients = {}, {}
  for remat in ('', 'products', 'nothing'):
    network = plain.clone(remat=remat)
    gradient = jax.grad(lambda p, n=network: jnp.square(n.apply({'params': p}, h)[0]).sum())
    products[remat] = str(jax.make_jaxpr(gradient)(params)).count('dot_general')
    gradients[remat] = jax.jit(gradient)(params)
  assert products[''] < products['products'] < products['nothing']
  for remat in ('products', 'nothing'):
    jax.tree.map(
      lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-3),
      gradients[''],
      gradients[remat],
    )


@pytest.mark.parametrize('scan', [False, True])
def test_a_network_built_for_a_tpu_mesh_gets_its_kernel(scan):
  """Lowers the gradient on a machine without TPUs, under a mesh of TPUs and one of CPUs."""
  network = Transformer(128, WIDTH, layers=1, scan=scan)
  h = jax.ShapeDtypeStruct((2, 128, WIDTH), jnp.float32)
  params = jax.eval_shape(network.init, jax.random.key(0), jnp.zeros(h.shape))['params']

  def loss(params, h):
    return network.apply({'params': params}, h)[0].sum()

  def lowered(platform):
    device = AbstractDevice(device_kind='some device', num_cores=1, platform=platform)
    mesh = AbstractMesh((1, 1, 1), AXES, abstract_device=device)
    with jax.sharding.use_abstract_mesh(mesh):
      return jax.jit(jax.grad(loss)).trace(params, h).lower(lowering_platforms=(platform,))

  assert 'tpu_custom_call' in lowered('tpu').as_text()
  assert 'custom_call' not in lowered('cpu').as_text()


@pytest.mark.parametrize('variant', ['gpt2', 'llama', 'alibi_window', 'scan_remat'])
def test_packed_documents_see_only_themselves(variant):
  network, params, h = network_of(variant)
  segments = jnp.array([[0] * 5 + [1] * 7, [3] * 2 + [4] * 10])
  packed = run(network, params, h, segments)
  for row, cut in ((0, 5), (1, 2)):
    first = run(network, params, h)[row, :cut]
    second = run(network, params, jnp.roll(h, -cut, axis=1))[row, : LENGTH - cut]
    np.testing.assert_allclose(packed[row], jnp.concatenate([first, second]), atol=2e-5)


def test_dropout_needs_training_and_changes_the_output():
  network, params, h = network_of('gpt2')
  network = network.clone(dropout=0.5)
  np.testing.assert_array_equal(run(network, params, h), hidden_of('gpt2'))
  rngs = {'dropout': jax.random.key(0)}
  train = jax.jit(lambda h: network.apply({'params': params}, h, train=True, rngs=rngs)[0])
  assert float(jnp.abs(train(h) - hidden_of('gpt2')).max()) > 0.1


def test_hidden_states_and_caches_have_the_type_of_the_products():
  network, _, _ = network_of('bfloat16')
  assert hidden_of('bfloat16').dtype == jnp.bfloat16
  assert network.init_cache(2, LENGTH).layers[0].key.dtype == jnp.bfloat16


def test_llama_of_one_position_by_hand():
  """A single position attends to itself: each group of query heads gets its key head's value."""
  network, params, h = network_of('llama')
  p, h = jax.tree.map(np.asarray, (params, h[:, :1]))
  norm = lambda h, layer: layer['scale'] * h / np.sqrt((h**2).mean(-1, keepdims=True) + 1e-5)
  expected = h[:, 0]
  for i in range(2):
    block = p[f'block_{i}']
    qkv = norm(expected, block['attention_norm']) @ block['attention']['qkv']['kernel']
    value = qkv.reshape(2, 2, 4, 8)[:, :, 3]  # of a key head: two queries, the key, the value
    mixed = np.repeat(value, 2, axis=1).reshape(2, WIDTH)
    expected = expected + mixed @ block['attention']['out']['kernel']
    inner = norm(expected, block['mlp_norm'])
    gate, up = (inner @ block[name]['kernel'] for name in ('gate', 'up'))
    expected = expected + gate / (1 + np.exp(-gate)) * up @ block['down']['kernel']
  expected = norm(expected, p['final_norm'])
  np.testing.assert_allclose(run(network, params, jnp.asarray(h))[:, 0], expected, atol=1e-5)


@pytest.mark.parametrize('scaling', [(), ('linear', 4.0), ('ntk', 4.0), ('llama3', 8.0, 16)])
def test_rotary_depends_only_on_the_distance(scaling):
  frequencies = pos.rotary_frequencies(16, scaling=scaling)
  query, key = jax.random.normal(jax.random.key(0), (2, 1, 16))

  def product(m, n):
    m, n = (pos.rotation(jnp.array([i]), frequencies) for i in (m, n))
    return float((pos.rotate(query, *m) * pos.rotate(key, *n)).sum())

  assert product(9, 4) == pytest.approx(product(1006, 1001), abs=1e-4)
  assert abs(product(9, 4) - product(9, 5)) > 1e-3
  turned = pos.rotate(query, *pos.rotation(jnp.array([77]), frequencies))
  assert float(jnp.linalg.norm(turned)) == pytest.approx(float(jnp.linalg.norm(query)), rel=1e-5)


def test_a_rotation_is_anticlockwise_by_hand():
  """A quarter turn takes the first axis to the second, its pair half the dimensions away."""
  cos, sin = pos.rotation(jnp.array([3]), np.array([math.pi / 6, 0.0]))
  turned = pos.rotate(jnp.array([[1.0, 2.0, 0.0, 5.0]]), cos, sin)
  np.testing.assert_allclose(turned, [[0.0, 2.0, 1.0, 5.0]], atol=1e-6)


def test_rotary_scalings_by_their_definitions():
  plain = pos.rotary_frequencies(8)
  np.testing.assert_allclose(pos.rotary_frequencies(8, scaling=('linear', 4.0)), plain / 4)
  longer = pos.rotary_frequencies(8, scaling=('ntk', 4.0))
  assert longer[0] == plain[0]  # the fastest turns stay, the slowest stretch by the factor
  np.testing.assert_allclose(longer[-1], plain[-1] / 4)
  llama = pos.rotary_frequencies(8, scaling=('llama3', 8.0, 100))
  turns = 100 * plain / (2 * math.pi)
  np.testing.assert_allclose(llama[turns > 4], plain[turns > 4])
  np.testing.assert_allclose(llama[turns < 1], plain[turns < 1] / 8)


@pytest.mark.parametrize('bounds, expected', [((), 0.02975353), ((0.5, 2.0), 0.07617372)])
def test_a_llama3_frequency_between_the_bounds_by_hand(bounds, expected):
  """0.1 turns 1.59155 times in 100 positions: a share of (1.59155 - low) / (high - low) is kept."""
  between = pos.rotary_frequencies(8, scaling=('llama3', 8.0, 100, *bounds))[1]
  assert between == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize(
  'scaling',
  [
    ('linear',),
    ('linear', 0.0),
    ('linear', '2'),
    ('ntk', 2.0, 8),
    ('llama3', 8.0),
    ('llama3', 8.0, 100, 4.0, 4.0),
    ('llama3', 8.0, 100, 1.0, 4.0, 5.0),
    ('llama3', float('inf'), 100),
  ],
)
def test_scalings_without_meaning_are_refused(scaling):
  with pytest.raises(ConfigError, match=r'rotary scaling must be \(.*, got \(') as error:
    pos.rotary_frequencies(8, scaling=scaling)
  assert '\n' not in str(error.value)


@pytest.mark.parametrize(
  'name, at_one, at_minus_two',
  [
    ('gelu', 0.8413447, -0.0455003),  # x·Φ(x)
    ('gelu_tanh', 0.8411920, -0.0454023),
    ('geglu', 0.8411920, -0.0454023),
    ('swiglu', 0.7310586, -0.2384058),
    ('relu', 1.0, 0.0),
  ],
)
def test_activations_by_hand(name, at_one, at_minus_two):
  made = ACTIVATIONS[name](jnp.array([1.0, -2.0]))
  np.testing.assert_allclose(made, [at_one, at_minus_two], atol=1e-6)


def test_relu_squared_by_hand():
  np.testing.assert_array_equal(ACTIVATIONS['relu2'](jnp.array([3.0, -2.0])), [9.0, 0.0])


def test_initial_deviations():
  """0.02, over √(2·layers) for the projections that end a branch; muP: √ratio times as large."""
  for base_width, factor in ((0, 1.0), (16, 2.0)):
    network = Transformer(8, width=64, layers=2, heads=2, base_width=base_width)
    params = jax.jit(network.init)(jax.random.key(0), jnp.zeros((1, 8, 64)))['params']['block_0']
    deviation = lambda layer: float(layer['kernel'].std())
    for inner in (params['attention']['qkv'], params['up']):
      assert deviation(inner) == pytest.approx(0.02 * factor, rel=0.05)
    for last in (params['attention']['out'], params['down']):
      assert deviation(last) == pytest.approx(0.01 * factor, rel=0.05)


def test_alibi_takes_slope_times_distance_off():
  network = network_of('alibi_window')[0]
  bias = network._attention_inputs(jnp.arange(3), None, None).bias
  np.testing.assert_allclose(bias[0, 2], 0.25 * np.array([-2, -1, 0]))  # the first of four slopes


def test_alibi_slopes():
  np.testing.assert_allclose(pos.alibi_slopes(8), 2.0 ** -np.arange(1, 9))
  twelve = pos.alibi_slopes(12)  # eight heads' slopes, then every second of sixteen's
  np.testing.assert_allclose(twelve[:8], 2.0 ** -np.arange(1, 9))
  np.testing.assert_allclose(twelve[8:], 2.0 ** -np.arange(0.5, 4.5))


def test_sinusoidal_table():
  table = np.asarray(pos.sinusoidal(jnp.array([10]), 8))[0]
  np.testing.assert_allclose(table[[0, 4]], [math.sin(10), math.cos(10)], atol=1e-6)
  np.testing.assert_allclose(table[1], math.sin(10 / 10.0), atol=1e-6)


def test_sinusoidal_positions_are_as_small_as_the_inputs():
  # Tokens have small embeddings; numbers enter at their own size.
  config = dict(name='transformer', positions='sinusoidal', width=8, layers=1, heads=2)
  ordering = types.SimpleNamespace(grid=None, features=0, context=0, values=1)
  for head, amplitude in ((Categorical(1, 5), EMBED_STD), (Bernoulli(1, 2), 1.0)):
    network = build_network(config, ordering, head, 3, 'float32')
    plain = build_network(config | {'positions': 'none'}, ordering, head, 3, 'float32')
    h = jnp.zeros((1, 3, 8))
    params = network.init(jax.random.key(0), h)
    expected = plain.apply(params, amplitude * pos.sinusoidal(jnp.arange(3)[None], 8))[0]
    np.testing.assert_allclose(network.apply(params, h)[0], expected, atol=1e-6)


def count(length, vocabulary, tied=True, **settings):
  """Number of parameters of a language model without a start token."""
  network = Transformer(length, **settings)
  head = Categorical(1, vocabulary)
  model = Model(network, head, 1, head.rows, tied=tied, start='none')
  shapes = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 2, 1), jnp.int32))
  return sum(math.prod(x.shape) for x in jax.tree.leaves(shapes))


@pytest.mark.parametrize(
  'width, layers, heads, bias, vocabulary, parameters',
  [
    (768, 12, 12, True, 50257, 124_439_808),
    (768, 12, 12, True, 50304, 124_475_904),
    (768, 12, 12, False, 50257, 124_337_664),
    (1024, 24, 16, True, 50257, 354_823_168),
    (1280, 36, 20, True, 50257, 774_030_080),
    (1600, 48, 25, True, 50257, 1_557_611_200),
  ],
)
def test_parameters_of_gpt2(width, layers, heads, bias, vocabulary, parameters):
  settings = dict(width=width, layers=layers, heads=heads, bias=bias, scan=True)
  assert count(1024, vocabulary, **settings) == parameters


def test_parameters_of_small_settings():
  assert count(256, 65, width=384, layers=6, heads=6, bias=False) == 10_745_088
  assert count(64, 65, width=128, layers=4, heads=4, bias=False) == 804_096
  assert count(64, 65, width=128, layers=4, heads=4, bias=False, positions='rotary') == 795_904


@pytest.mark.parametrize(
  'settings, message',
  [
    (dict(heads=5), 'network.heads=5 does not divide network.width=32'),
    (dict(kv_heads=3), 'network.kv_heads=3 does not divide network.heads=4'),
    (dict(positions='rotery'), "did you mean 'rotary'"),
    (dict(activation='tanh'), "network.activation='tanh' is unknown"),
    (dict(norm='batch'), "network.norm='batch' is unknown"),
    (dict(norm_position='mid'), "network.norm_position='mid' is unknown"),
    (dict(remat='all'), "network.remat='all' is unknown"),
  ],
)
def test_refuses(settings, message):
  with pytest.raises(ConfigError, match=message) as error:
    settings = dict(name='transformer', width=WIDTH, heads=4) | settings
    component(NETWORKS, settings, 'network', length=LENGTH)
  assert '\n' not in str(error.value)
