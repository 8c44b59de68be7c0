"""Model FLOPs of every network: published values, values by hand, and the factor of training."""

import functools

import jax
import jax.numpy as jnp
import pytest

from autoregressive.heads.categorical import Categorical
from autoregressive.model import Model
from autoregressive.networks.transformer import Transformer
from common import flops
from common.data.spec import DataSpec
from common.method import Context, Request
from diffusion.networks import NETWORKS
from experiments import families
from tests.autoregressive.networks import test_networks, test_pixelcnn, test_transformer
from tests.cases import mostly_slow
from tests.diffusion.networks import small


def floats(*shape):
  return jax.ShapeDtypeStruct(shape, jnp.float32)


def integers(*shape):
  return jax.ShapeDtypeStruct(shape, jnp.int32)


def forward(network, *inputs):
  """Operations of the forward pass; nothing is computed."""
  variables = jax.eval_shape(network.init, jax.random.key(0), *inputs)
  return flops.count(flops.trace(network.apply, variables, *inputs))


def total(network, variables, *inputs):
  """The sum of the outputs of a network; of a causal network without its cache."""
  outputs = network.apply(variables, *inputs)
  return (outputs[0] if isinstance(outputs, tuple) else outputs).sum()


# Peebles & Xie 2022, table 4. Their Gflops are products with sums, so one of theirs is two of ours.
@pytest.mark.parametrize(
  ('width', 'depth', 'heads', 'published'),
  [(384, 12, 6, 6.06), (768, 12, 12, 23.01), (1024, 24, 16, 80.71), (1152, 28, 16, 118.64)],
)
def test_dit_has_the_published_operations(width, depth, heads, published):
  network = NETWORKS['dit'](
    out_channels=8, num_classes=1000, width=width, depth=depth, heads=heads, remat=True
  )
  ours = forward(network, floats(1, 32, 32, 4), floats(1), integers(1))
  assert ours / 2e9 == pytest.approx(published, abs=0.03)


@pytest.mark.parametrize('settings', [{}, {'attention': 'blocks'}, {'remat': 'nothing'}])
def test_gpt2_has_six_operations_per_parameter_and_twelve_per_pair(settings):
  """6·N + 12·layers·width·positions for a token, where N leaves out positions, norms and biases."""
  layers, width, length, vocabulary = 12, 768, 1024, 50257
  model = Model(
    network=Transformer(length, width, layers, heads=12, scan=True, **settings),
    head=Categorical(1, vocabulary),
    values=1,
    rows=vocabulary,
    tied=True,
    start='none',
  )
  token = 3 * forward(model, integers(1, length + 1, 1)) / length
  parameters = 12 * layers * width**2 + vocabulary * width
  assert token == 6 * parameters + 12 * layers * width * length
  assert token / 1e9 == pytest.approx(0.8544, abs=5e-5)


def test_a_unet_by_hand():
  """Two levels of 8×8 and 4×4 pixels with one block each, and attention at the coarse one."""
  network = small.build('ddpm')
  width, condition = 16, 64

  def conv(size, inputs, outputs, kernel=3):
    return size**2 * kernel**2 * inputs * outputs

  def block(size, inputs, outputs):
    skip = conv(size, inputs, outputs, 1) if inputs != outputs else 0
    convolutions = conv(size, inputs, outputs) + conv(size, outputs, outputs)
    return convolutions + skip + condition * outputs

  def attention(size, channels):
    return size**2 * 4 * channels**2 + 2 * size**4 * channels

  products = (
    width * condition + condition**2  # the noise embedding
    + conv(8, 1, width)
    + block(8, 16, 16) + conv(4, 16, 16)  # down
    + block(4, 16, 32) + attention(4, 32)
    + 2 * block(4, 32, 32) + attention(4, 32)  # middle
    + block(4, 64, 32) + block(4, 48, 32) + 2 * attention(4, 32) + conv(8, 32, 32)  # up
    + block(8, 48, 16) + block(8, 32, 16)
    + conv(8, 16, 2)
  )  # fmt: skip
  assert forward(network, floats(1, 8, 8, 1), floats(1), integers(1)) == 2 * products


CAUSAL = {
  **test_networks.VARIANTS,
  **test_pixelcnn.NETWORKS,
  **{
    name: Transformer(**dict(length=64, width=32, layers=2, heads=4) | settings)
    for name, settings in test_transformer.VARIANTS.items()
    if 'remat' not in settings
  },
}


# Different kinds of network; the transformer with grouped heads, with a window and scanned.
QUICK = ('gru', 'tcn', 'gated', 'llama', 'alibi_window', 'scan', 'dit', 'ddpm')


@pytest.mark.parametrize('name', mostly_slow([*CAUSAL, *small.SMALL], QUICK))
def test_training_takes_three_times_the_operations_of_the_forward_pass(name):
  """Where inputs have a gradient too; attention as its formula, nothing computed twice."""
  if name in CAUSAL:
    network = CAUSAL[name]
    length = network.max_length or 12
    inputs = (floats(2, length, network.width),)
  else:
    # A fixed filter has no gradient.
    settings = {'fir': False} if 'fir' in small.SMALL[name] else {}
    network, inputs = small.build(name, num_classes=0, **settings), small.batch()[:2]
  variables = jax.eval_shape(network.init, jax.random.key(0), *inputs)
  gradient = jax.grad(functools.partial(total, network), range(1 + len(inputs)))
  training = flops.count(flops.trace(gradient, variables, *inputs))
  assert training == 3 * forward(network, *inputs)


@pytest.mark.parametrize(
  ('file', 'evaluations'), [('autoregressive/images.py', 64), ('diffusion/images.py', 1)]
)
def test_drawing_all_positions_takes_the_operations_of_a_forward_pass(file, evaluations):
  """Position by position, a cache saves every product but those of the new position."""
  config = families.load_config(f'configs/{file}:digits', {})
  spec = DataSpec('digits', 'image', (8, 8, 1), 17, 10)
  method = families.build(config, spec)
  batch = {'x': jnp.zeros((1, 8, 8, 1), jnp.uint8), 'label': jnp.zeros(1, jnp.int32)}
  shapes, memory = jax.eval_shape(method.init, jax.random.key(0), batch)
  params = jax.tree.map(lambda shape: jnp.zeros(shape.shape, shape.dtype), shapes)
  context = Context(0, params, False, jnp.arange(1), 1)
  loss = functools.partial(method.loss, key=jax.random.key(0), context=context)
  once = flops.count(flops.trace(loss, params, memory, batch))
  request = Request(1, jnp.zeros(1, jnp.int32))
  assert evaluations * method.evaluation_flops(params, request) == once
