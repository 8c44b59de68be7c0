"""PixelCNN, gated PixelCNN, PixelCNN++: what they see, their caches, likelihoods and sizes."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from autoregressive.method import build, build_model
from autoregressive.networks.pixelcnn import GatedPixelCNN, PixelCNN
from autoregressive.networks.pixelcnn_pp import PixelCNNPlusPlus, TransposedConv
from autoregressive.networks.raster import Conv
from common.config import ConfigError
from common.data.spec import DataSpec
from common.method import Request
from configs.autoregressive import base, pixelcnn
from experiments import families
from tests.autoregressive.common import images, perturbed
from tests.cases import mostly_slow, slow

WIDTH = 6
NETWORKS = {  # the last two have three emissions per pixel
  'plain': PixelCNN(25, (5, 5), WIDTH, layers=1, first_kernel=3),
  'gated': GatedPixelCNN(25, (5, 5), WIDTH, layers=2, first_kernel=3),
  'pp': PixelCNNPlusPlus(16, (4, 4), WIDTH, blocks=1, levels=3),
  'plain_rgb': PixelCNN(18, (2, 3), WIDTH, layers=1, first_kernel=3),
  'gated_rgb': GatedPixelCNN(18, (2, 3), WIDTH, layers=2, first_kernel=3),
}
RGB = DataSpec('rgb', 'image', (2, 2, 3), 4, 3)
GREY = DataSpec('grey', 'image', (2, 2, 1), 3, 2)


@functools.cache
def network_of(name):
  network = NETWORKS[name]
  h = jax.random.normal(jax.random.key(0), (2, network.length, WIDTH))
  params = perturbed(jax.jit(network.init)(jax.random.key(1), h)['params'], 0.3)
  return network, params, h


@functools.cache
def influence_of(name):
  """|d hidden[i] / d input[j]|, [emissions, inputs]. Input 0 is the start, j is emission j - 1.

  Summed over examples: a unit that is off for one example still shows its inputs in another.
  """
  network, params, _ = network_of(name)
  h = jax.random.normal(jax.random.key(2), (12, network.length, WIDTH))
  read = lambda h: network.apply({'params': params}, h)[0].sum((0, 2))
  return np.asarray(jnp.abs(jax.jit(jax.jacrev(read))(h)).sum((1, 3)))


@pytest.mark.parametrize('name', mostly_slow(NETWORKS, ['gated', 'plain_rgb']))
def test_causal_by_gradient(name):
  """No emission sees later ones, all see the start, and channels see those before in a pixel."""
  table, groups = influence_of(name), NETWORKS[name].groups
  assert (table[np.triu_indices_from(table, 1)] == 0).all()
  assert (table[:, 0] > 0).all()
  for i in range(1, len(table)):
    if i % groups:
      assert (table[i, i - i % groups + 1 : i + 1] > 0).all()


def field(name, row, column):
  """The pixels that a pixel's hidden state sees."""
  network = NETWORKS[name]
  seen = influence_of(name)[row * network.grid[1] + column, 1:] > 0
  return np.append(seen, False).reshape(network.grid)


def expected_field(windows, row, column, grid):
  """Follows windows [(rows up, columns left, columns right in the rows above, whether the pixel
  itself)] back from a pixel."""
  seen = {(row, column)}
  for up, left, right, own in windows:
    seen = {
      (r - i, c + j)
      for r, c in seen
      for i in range(up + 1)
      for j in range(-left, right + 1)
      if i > 0 or j < 0 or (j == 0 and own)
    }
  table = np.zeros(grid, bool)
  for r, c in seen:
    if 0 <= r < grid[0] and 0 <= c < grid[1]:
      table[r, c] = True
  return table


@pytest.mark.parametrize('place', [(4, 2), (3, 0), (2, 4)])
def test_field_of_pixelcnn_has_its_blind_spot(place):
  made = field('plain', *place)
  windows = [(1, 1, 1, True), (1, 1, 1, False)]  # back from the block's mask B to the first, A
  np.testing.assert_array_equal(made, expected_field(windows, *place, (5, 5)))
  if place == (4, 2):
    assert not made[3, 4]  # above and to the right, within the reach of two windows of 3


def test_gated_has_no_blind_spot():
  """Everything within reach is seen: two columns to each side and two rows up."""
  expected = np.zeros((5, 5), bool)
  expected[2:4], expected[4, :2] = True, True
  np.testing.assert_array_equal(field('gated', 4, 2), expected)


@pytest.mark.slow
def test_field_of_pixelcnn_pp_is_everything_before():
  table = influence_of('pp')
  assert (table[np.tril_indices_from(table)] > 0).all()


@pytest.mark.parametrize('name', mostly_slow(NETWORKS, NETWORKS.keys() - {'pp'}))
def test_cached_equals_uncached(name):
  """The parts cut the image, and even a pixel, at arbitrary points."""
  network, params, h = network_of(name)
  whole, _ = jax.jit(lambda h: network.apply({'params': params}, h))(h)
  extend = jax.jit(lambda h, cache: network.apply({'params': params}, h, cache))
  first, cache = extend(h[:, :7], network.init_cache(2, network.length))
  second, cache = extend(h[:, 7:], cache)
  np.testing.assert_allclose(jnp.concatenate([first, second], 1), whole, atol=2e-5)
  assert int(cache.index) == network.length


def test_a_beginning_is_enough():
  network, params, h = network_of('plain')
  run = jax.jit(lambda h: network.apply({'params': params}, h)[0])
  np.testing.assert_allclose(run(h[:, :7]), run(h)[:, :7], atol=1e-6)


def test_caches_hold_rows_rather_than_images():
  """Apart from the image itself, PixelCNN++ keeps two rows of each convolution's input."""
  small, tall = (PixelCNNPlusPlus(8 * n, (n, 8), WIDTH, blocks=1, levels=2) for n in (8, 64))
  size = lambda network: sum(x.size for x in jax.tree.leaves(network.init_cache(1, 0).layers))
  assert size(small) == size(tall)


def config_of(network, head='categorical', **settings):
  config = base.get_base()
  config.network = dict(name=network, width=8) | settings
  config.head = dict(name=head)
  return families.complete(config)


PP = dict(blocks=1, levels=2, dropout=0.0)
APART = dict(name='patches', channels='apart')
METHODS = {
  'plain': (RGB, config_of('pixelcnn', layers=1) | {'ordering': APART}),
  'gated': (GREY, config_of('gated_pixelcnn', layers=2)),
  'pp': (RGB, config_of('pixelcnn_pp', 'logistic_mixture', **PP)),
  'pp_grey': (GREY, config_of('pixelcnn_pp', 'logistic_mixture', **PP)),
}  # fmt: skip


@functools.cache
def method_of(name):
  spec, config = METHODS[name]
  made = build(config, spec)
  params, _ = jax.jit(made.init)(jax.random.key(0), images(1, spec))
  return made, perturbed(params, 0.1), build_model(config, spec)


@pytest.mark.parametrize('name', ['plain', *slow(['pp'])])
def test_likelihood_is_the_sum_of_conditionals_when_sampled(name):
  """Draws pixel after pixel with the cache, adds up the log-probability of each draw, and compares
  the sum with the likelihood of the resulting images."""
  made, params, (ordering, model) = method_of(name)
  run = lambda method, *args: model.apply({'params': params}, *args, method=method)
  label = jnp.arange(4) % 3

  def step(carry, key):
    inputs, cache = carry
    hidden, cache = run(model.extend, inputs, cache)
    outputs = run(model.project, hidden)[:, 0]
    emission = model.head.sample(outputs, key)
    log_prob = model.head.log_prob(outputs, emission)
    return (run(model.embed, emission[:, None]), cache), (emission, log_prob)

  @jax.jit
  def draw(key):
    carry = run(model.embed_start, 4, label), model.network.init_cache(4, ordering.length)
    _, (emissions, log_prob) = jax.lax.scan(step, carry, jax.random.split(key, ordering.length))
    return ordering.decode(emissions.swapaxes(0, 1)), log_prob.sum(0)

  x, log_prob = draw(jax.random.key(3))
  nats = jax.jit(made.nll)(params, {'x': x, 'label': label}, jax.random.key(0)).nats
  np.testing.assert_allclose(nats, -log_prob, rtol=1e-5, atol=1e-4)
  assert len(np.unique(np.asarray(x), axis=0)) > 1


@pytest.mark.parametrize('name', ['gated', *slow(['pp_grey'])])
def test_probabilities_of_all_images_sum_to_one(name):
  made, params, _ = method_of(name)
  every = jnp.stack(jnp.meshgrid(*[jnp.arange(3)] * 4), -1).reshape(-1, 2, 2, 1)
  nll = jax.jit(made.nll)
  totals = []
  for label in range(2):
    batch = {'x': every.astype(jnp.uint8), 'label': jnp.full(81, label)}
    totals.append(np.exp(-np.asarray(nll(params, batch, jax.random.key(0)).nats)))
  np.testing.assert_allclose([t.sum() for t in totals], 1, rtol=1e-5)
  assert np.abs(totals[0] - totals[1]).max() > 1e-4  # and the class counts


@pytest.mark.slow
def test_samples_by_the_method():
  """The same decoding as every other network's; a given beginning is kept."""
  made, params, _ = method_of('pp')
  past = images(3, RGB)['x']
  mask = np.zeros((3, 2, 2, 3), bool)
  mask[:, 0] = True
  request = Request(3, jnp.arange(3), past=past, mask=mask)
  samples = made.sample(params, jax.random.key(0), request)
  assert samples.x.shape == (3, 2, 2, 3)
  np.testing.assert_array_equal(np.asarray(samples.x)[mask], np.asarray(past)[mask])
  other = made.sample(params, jax.random.key(1), request)
  assert (np.asarray(other.x) != np.asarray(samples.x)).any()


@pytest.mark.slow
def test_unconditional_pixelcnn_pp_does_not_see_the_start():
  network, params, h = network_of('pp')
  network = network.clone(conditional=False)
  run = jax.jit(lambda h: network.apply({'params': params}, h)[0])
  np.testing.assert_array_equal(run(h), run(h.at[:, 0].add(1.0)))


@pytest.mark.slow
def test_dropout_needs_training():
  network, params, h = network_of('pp')
  run = lambda **extra: network.apply({'params': params}, h, **extra)[0]
  dropped = jax.jit(lambda key: run(train=True, rngs={'dropout': key}))(jax.random.key(0))
  assert float(jnp.abs(dropped - jax.jit(run)()).max()) > 0.1


@pytest.mark.parametrize('centre, sign', [('A', -1), ('B', 1)])
def test_masks(centre, sign):
  """(k² ∓ 1)/2 of k² weights stay; at the centre of three groups, three pairs (A) or six (B)."""
  for k in (3, 5, 7):
    conv = Conv(1, (k // 2, 0), (k // 2, k // 2), centre=centre)
    assert conv._mask(1).sum() == (k**2 + sign) / 2
    rgb = Conv(6, (k // 2, 0), (k // 2, k // 2), centre=centre, groups=3)
    assert rgb._mask(3).sum() / 2 == (k**2 - 1) / 2 * 9 + (3 if centre == 'A' else 6)


# On a grid of one pixel a network sees only the start: each convolution is a product with the
# centre of its kernel, in its last row.


def single(network):
  """The hidden states of two examples, their starts and the parameters as arrays of NumPy."""
  h = jax.random.normal(jax.random.key(0), (2, 1, network.width))
  params = perturbed(jax.jit(network.init)(jax.random.key(1), h)['params'], 0.3)
  hidden = jax.jit(lambda h: network.apply({'params': params}, h)[0])(h)
  return hidden[:, 0], np.asarray(h)[:, 0], jax.tree.map(np.asarray, params)


def centre_of(layer, x):
  kernel = layer['kernel']
  if 'length' in layer:  # Salimans & Kingma 2016: each output has a direction and a length
    kernel = layer['length'] * kernel / np.sqrt((kernel**2).sum((0, 1, 2)))
  return x @ kernel[-1, kernel.shape[1] // 2] + layer['bias']


def relu(x):
  return np.maximum(x, 0)


def sigmoid(x):
  return 1 / (1 + np.exp(-x))


def test_pixelcnn_of_one_pixel_by_hand():
  """Van den Oord et al. 2016a, figure 5 (left): 2h features to h and back, added to the input."""
  hidden, start, p = single(PixelCNN(1, (1, 1), WIDTH, layers=2, first_kernel=3))
  x = p['first_conv']['bias'] + start @ p['start_proj']['kernel']
  for i in range(2):
    inner = relu(centre_of(p[f'reduce_{i}'], relu(x)))
    x = x + centre_of(p[f'expand_{i}'], relu(centre_of(p[f'mix_{i}'], inner)))
  np.testing.assert_allclose(hidden, relu(centre_of(p['output_conv'], relu(x))), atol=1e-5)


def test_gated_pixelcnn_of_one_pixel_by_hand():
  """Van den Oord et al. 2016b, equation 4 and figure 2: tanh of the first half times the sigmoid of
  the second; only later layers of the horizontal stream add their input."""
  hidden, start, p = single(GatedPixelCNN(1, (1, 1), WIDTH, layers=3, first_kernel=3))
  gate = lambda x: np.tanh(x[:, :WIDTH]) * sigmoid(x[:, WIDTH:])
  above, x = np.zeros((2, WIDTH)), np.zeros((2, WIDTH))
  for i in range(3):
    shift = lambda stream, i=i: start @ p[f'{stream}_start_proj_{i}']['kernel']
    made = centre_of(p[f'vertical_{i}'], above) + shift('vertical')
    mixed = centre_of(p[f'horizontal_{i}'], x) + centre_of(p[f'vertical_to_horizontal_{i}'], made)
    above, x = gate(made), x + centre_of(p[f'mix_{i}'], gate(mixed + shift('horizontal')))
  np.testing.assert_allclose(hidden, relu(centre_of(p['output_conv'], relu(x))), atol=1e-5)


def test_pixelcnn_pp_of_one_pixel_by_hand():
  """Blocks x + a·σ(b) of both streams in a single level, which turns around at its last output."""
  hidden, start, p = single(PixelCNNPlusPlus(1, (1, 1), WIDTH, blocks=1, levels=1, dropout=0.0))
  elu = lambda x: np.where(x > 0, x, np.expm1(x))
  both = lambda x: elu(np.concatenate([x, -x], -1))

  def block(name, x, skip=None):
    layer = p['top'][name]
    made = centre_of(layer['Conv_0'], both(x))
    if skip is not None:
      made = made + centre_of(layer['skip'], both(skip))
    made = centre_of(layer['Conv_1'], both(made)) + start @ layer['start_proj']['kernel']
    return x + made[:, :WIDTH] * sigmoid(made[:, WIDTH:])

  v = np.broadcast_to(p['first_v']['bias'], start.shape)
  v_in = block('v_in_0', v)
  v_out = block('v_out_0', v_in, v)
  h = np.broadcast_to(p['first_above']['bias'] + p['first_left']['bias'], start.shape)
  h_in = block('h_in_0', h, v_in)
  x = block('h_out_0', h_in, np.concatenate([v_out, h], -1))
  np.testing.assert_allclose(hidden, elu(x), atol=1e-5)


@pytest.mark.parametrize('wide', [True, False])
def test_a_transposed_convolution_by_hand(wide):
  """Pixel (i, j) adds to rows 2i and 2i + 1, and to columns from 2j on; from 2j − 1 if wide."""
  layer = TransposedConv(4, wide, True, 'float32')
  x = jax.random.normal(jax.random.key(0), (1, 2, 3, 4))
  params = perturbed(layer.init(jax.random.key(1), x, None)['params'])
  kernel = np.asarray(params['kernel'])
  kernel = np.asarray(params['length']) * kernel / np.sqrt((kernel**2).sum((0, 1, 2)))
  expected = np.zeros((4, 8, 4))  # a column more on each side
  for i, j in np.ndindex(2, 3):
    for row, column in np.ndindex(kernel.shape[:2]):
      place = 2 * i + row, 1 + 2 * j + column - wide
      expected[place] += np.asarray(x)[0, i, j] @ kernel[row, column]
  made = layer.apply({'params': params}, x, None)[0]
  np.testing.assert_allclose(made, expected[:, 1:-1] + np.asarray(params['bias']), atol=1e-5)


@pytest.mark.parametrize('weight_norm', [True, False])
def test_initial_scale_of_a_convolution(weight_norm):
  """Outputs of unit inputs have a tenth of their deviation with a scale of 0.1."""
  conv = Conv(64, (1, 0), (1, 1), scale=0.1, weight_norm=weight_norm)
  x = jax.random.normal(jax.random.key(0), (4, 6, 6, 64))
  made, _ = jax.jit(conv.init_with_output)(jax.random.key(1), x, None)
  assert float(made[:, 1:, 1:-1].std()) == pytest.approx(0.1, rel=0.05)


def test_blocks_of_pixelcnn_pp_begin_close_to_the_identity():
  """The second convolution of a block has a tenth of the scale (the authors' code)."""
  network = PixelCNNPlusPlus(1, (1, 1), WIDTH, blocks=1, levels=1)
  params = jax.jit(network.init)(jax.random.key(0), jnp.zeros((1, 1, WIDTH)))['params']
  for block in ('v_in_0', 'h_out_0'):
    first, second = (params['top'][block][f'Conv_{i}']['length'] for i in range(2))
    np.testing.assert_allclose(first, 1)
    np.testing.assert_allclose(second, 0.1)


@pytest.mark.parametrize(
  'layer',
  [
    Conv(3, (1, 0), (1, 1), weight_norm=True, fitted=True, scale=0.1),
    TransposedConv(3, True, True, 'float32', fitted=True),
  ],
)
def test_a_layer_is_fitted_to_its_first_inputs_and_keeps_the_result(layer):
  x = 3 + 2 * jax.random.normal(jax.random.key(0), (4, 6, 6, 3))
  first, variables = layer.init_with_output(jax.random.key(1), x, None)
  y = np.asarray(first).reshape(-1, 3)
  np.testing.assert_allclose(y.mean(0), 0, atol=1e-5)
  np.testing.assert_allclose(y.std(0), 0.1 if isinstance(layer, Conv) else 1, rtol=1e-4)
  np.testing.assert_allclose(layer.apply(variables, x, None), first, atol=1e-6)


def test_fitting_needs_normalised_weights():
  with pytest.raises(ConfigError, match=r'network.init_examples=8 .* network.weight_norm=True'):
    PixelCNNPlusPlus(16, (4, 4), WIDTH, weight_norm=False, init_examples=8)


@pytest.mark.slow
def test_initial_outputs_fitted_to_examples_have_mean_0_and_deviation_1():
  """Salimans & Kingma 2016, section 3; a tenth in the second convolution of a block."""
  network = PixelCNNPlusPlus(16, (4, 4), WIDTH, blocks=1, levels=2, dropout=0.0, init_examples=32)
  is_layer = lambda module, method: isinstance(module, Conv | TransposedConv) and (
    method == '__call__'
  )  # fmt: skip

  @jax.jit
  def outputs(x):
    params = network.init(jax.random.key(1), x)['params']
    return network.apply({'params': params}, x, capture_intermediates=is_layer)[1]

  made = outputs(3 + 2 * jax.random.normal(jax.random.key(0), (32, 16, WIDTH)))
  layers = jax.tree.leaves_with_path(made)
  assert len(layers) == 10 * 2 + 8 + 3 + 2 + 2  # blocks, their skips, first, down, up
  for path, y in layers:
    name, y = jax.tree_util.keystr(path), np.asarray(y).reshape(-1, y.shape[-1])
    np.testing.assert_allclose(y.mean(0), 0, atol=1e-4, err_msg=name)
    np.testing.assert_allclose(y.std(0), 0.1 if 'Conv_1' in name else 1, rtol=1e-3, err_msg=name)


def count(network):
  h = jnp.zeros((1, network.length, network.width))
  shapes = jax.eval_shape(network.init, jax.random.key(0), h)
  return sum(math.prod(x.shape) for x in jax.tree.leaves(shapes))


def test_parameters_of_pixelcnn():
  """2h = 16 features: 7 × 7 (its upper 4 × 7), blocks of 1 × 1, 3 × 3 (2 × 3), 1 × 1, and 1 × 1."""
  h, two = 8, 16
  block = (two * h + h) + (2 * 3 * h * h + h) + (h * two + two)
  expected = (4 * 7 * two * two + two) + two * two + 3 * block + (two * two + two)
  assert count(PixelCNN(64, (8, 8), two, layers=3)) == expected


def test_parameters_of_gated_pixelcnn():
  f = 16
  first = (3 * 7 * f * 2 * f + 2 * f) + (4 * f * 2 * f + 2 * f)  # rows above; the row to the left
  layer = (2 * 3 * f * 2 * f + 2 * f) + (2 * f * 2 * f + 2 * f)
  # Vertical to horizontal, 1 × 1, and two maps of the start.
  every = (2 * f * 2 * f + 2 * f) + (f * f + f) + 2 * f * 2 * f
  expected = first + 3 * layer + 4 * every + f * f + f
  assert count(GatedPixelCNN(64, (8, 8), f, layers=4)) == expected


def parameters_of_pp(f, inputs, blocks=5, levels=3):
  """Parameters in Salimans et al. 2017, unconditional, without the last projection; a
  weight-normalised convolution has a direction, a length and a bias."""
  conv = lambda area, i, o: area * i * o + 2 * o
  block = lambda area, skip: conv(area, 2 * f, f) + conv(area, 2 * f, 2 * f) + (
    conv(1, 2 * skip, f) if skip else 0
  )  # fmt: skip
  v, h = lambda skip: block(6, skip), lambda skip: block(4, skip)
  first = conv(6, inputs, f) + conv(3, inputs, f) + conv(2, inputs, f)
  way_in = levels * blocks * (v(0) + h(f))
  way_out = (levels * blocks + levels - 1) * (v(f) + h(2 * f))
  between = (levels - 1) * 2 * (conv(6, f, f) + conv(4, f, f))
  return first + way_in + way_out + between


def test_parameters_of_pixelcnn_pp():
  """As in the paper, except that the first convolutions take features, not channels and a one."""
  assert count(PixelCNNPlusPlus(64, (8, 8), 16, conditional=False)) == parameters_of_pp(16, 16)
  published = parameters_of_pp(160, 4)  # the authors' default, for 32 × 32 × 3
  ours = count(PixelCNNPlusPlus(1024, (32, 32), 160, conditional=False))
  assert ours - published == 11 * (160 - 4) * 160


@pytest.mark.parametrize('variant', pixelcnn.VARIANTS)
def test_configs_build(variant):
  config = pixelcnn.get_config(variant)
  shape, levels = {'digits': ((8, 8, 1), 17), 'mnist': ((28, 28, 1), 256)}.get(
    config.data.name, ((32, 32, 3), 256)
  )
  _, model = build_model(
    families.complete(config), DataSpec(config.data.name, 'image', shape, levels, 10)
  )
  assert model.network.grid == shape[:2]
  with pytest.raises(ValueError, match="unknown variant 'imagenet'"):
    pixelcnn.get_config('imagenet')


@pytest.mark.parametrize(
  'make, message',
  [
    (lambda: PixelCNN(8, None), 'needs an ordering of images'),
    (lambda: PixelCNN(16, (4, 4), 5), 'network.width must be even, got 5'),
    (lambda: PixelCNN(16, (4, 4), first_kernel=4), 'first_kernel must be odd, got 4'),
    (lambda: PixelCNNPlusPlus(36, (6, 6)), 'sides are multiples of 4, got 6 x 6'),
    (lambda: PixelCNNPlusPlus(48, (4, 4)), "ordering.channels='together'"),
    (lambda: build(METHODS['pp'][1] | {'model': dict(base.get_base().model, start='none')},
                   DataSpec('plain', 'image', (2, 2, 3), 4)), 'needs a start'),
  ],
)  # fmt: skip
def test_refuses(make, message):
  with pytest.raises(ConfigError, match=message) as error:
    make()
  assert '\n' not in str(error.value)


def test_images_are_not_packed():
  network, params, h = network_of('plain')
  with pytest.raises(ValueError, match='not packed'):
    network.apply({'params': params}, h, segments=jnp.zeros((2, 25), jnp.int32))
