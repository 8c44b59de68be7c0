"""What a 16-bit precision changes in every network of both families, and what stays float32."""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from autoregressive.method import build_model
from autoregressive.networks import NETWORKS as ALL_CAUSAL
from common.checkpoints.resume import is_changeable
from common.config import ConfigError
from common.data.spec import DataSpec
from diffusion.networks import CLASSIFIERS
from diffusion.networks import NETWORKS as DIFFUSION
from experiments import families
from tests.autoregressive.common import DIGITS, perturbed, small_config
from tests.cases import mostly_slow
from tests.diffusion.networks import small
from tests.jaxprs import equations

RGB = DataSpec('rgb', 'image', (4, 4, 3), 17)
WIDTH = 16
# N-BEATS needs other data: tests/autoregressive/networks/test_nbeats.py.
CAUSAL = {name: network for name, network in ALL_CAUSAL.items() if not network.direct}
NETWORKS = {name: (DIGITS, dict(name=name, width=WIDTH, layers=2)) for name in CAUSAL} | {
  'transformer': (DIGITS, dict(name='transformer', width=WIDTH, layers=2, heads=2)),
  'llama': (
    DIGITS,
    dict(
      name='transformer',
      width=WIDTH,
      layers=2,
      heads=2,
      positions='rotary',
      norm='rms',
      activation='swiglu',
      qk_norm=True,
      base_width=8,
      scan=True,
    ),
  ),
  'pixelcnn_pp': (RGB, dict(name='pixelcnn_pp', width=WIDTH, blocks=1, levels=2, dropout=0.0)),
}
# The layers that make the estimate of a diffusion network, and those that read numbers as data.
IN_FLOAT32 = {
  'dit': 'output_proj',
  'mlp': 'Dense_7',
  'unet': 'output',
  'unet_encoder': 'output',
  'causal': 'input_proj',
}


def model_of(name, precision):
  """(model, emissions for it)."""
  spec, network = NETWORKS[name]
  head = dict(name='logistic_mixture' if name == 'pixelcnn_pp' else 'categorical')
  config = small_config() | dict(network=network, head=head, precision=precision)
  ordering, model = build_model(families.complete(config), spec)
  x = jax.random.randint(jax.random.key(0), (2, *spec.shape), 0, spec.levels)
  return model, ordering.encode(x)


def causal(name, precision):
  """(params -> outputs of a model, its parameters)."""
  model, emissions = model_of(name, precision)
  params = perturbed(jax.jit(model.init)(jax.random.key(1), emissions)['params'], 0.1)
  return lambda params: model.apply({'params': params}, emissions), params


def diffusion(name, precision):
  """(params -> a network's estimate, its parameters)."""
  network = small.build(name, dtype=precision)
  run = lambda params: network.apply({'params': params}, *small.batch())
  return run, small.random_params(network)


def classifier(precision):
  """(params -> logits of the encoder of a U-Net, its parameters); attention pools in float32."""
  settings = {k: v for k, v in small.SMALL['adm'].items() if k != 'name'}
  settings |= dict(pool='mean', out_channels=5, num_classes=0, dtype=precision)
  network = CLASSIFIERS['unet_encoder'](**settings)
  x, noise, _ = small.batch()
  run = lambda params: network.apply({'params': params}, x, noise)
  shapes = jax.eval_shape(network.init, jax.random.key(0), x, noise)
  return run, small.random_like(shapes['params'])


CASES = {name: functools.partial(causal, name) for name in NETWORKS} | {
  name: functools.partial(diffusion, name) for name in small.SMALL
}
CASES['unet_encoder'] = classifier


def test_every_network_is_a_case():
  named = {network['name'] for network in small.SMALL.values()}
  assert set(DIFFUSION) == named and set(CAUSAL) <= set(NETWORKS)
  assert set(CLASSIFIERS) - set(DIFFUSION) <= set(CASES)


HALVES = ('bfloat16', 'float16')


@pytest.mark.parametrize(
  ('name', 'precision'),
  mostly_slow(
    [(name, precision) for precision in HALVES for name in CASES],
    [*((name, 'bfloat16') for name in ('transformer', 'gru', 'dit', 'mlp')), ('dit', 'float16')],
  ),
)
def test_products_and_residual_streams_have_16_bits(name, precision):
  run, params = CASES[name](precision)
  assert {leaf.dtype for leaf in jax.tree.leaves(params)} == {np.dtype('float32')}
  assert jax.eval_shape(run, params).dtype == jnp.float32
  kind = small.SMALL[name]['name'] if name in small.SMALL else name
  kind = kind if kind in IN_FLOAT32 else 'causal'
  products = _equations(
    'dot_general|conv_general_dilated', jax.grad(lambda p: run(p).sum()), params
  )
  assert len(products) > 5
  wide = [place for place, inputs, _ in products if any(x.dtype == jnp.float32 for x in inputs)]
  assert [place for place in wide if IN_FLOAT32[kind] not in place] == []
  # Sums over the last axis (statistics) aside, only these parts add in float32.
  parts = re.compile(
    f'{IN_FLOAT32[kind]}|norm|cell' + ('|attention' if name == 'llama' else ''), re.I
  )
  sums = [e for e in _equations('add', run, params) if e[2].ndim > 1 and e[2].shape[-1] > 1]
  assert any(total.dtype == precision for _, _, total in sums)
  wide = [place for place, _, total in sums if total.dtype == jnp.float32]
  assert [place for place in wide if place and not parts.search(place)] == []


def _equations(names, function, *args):
  """(place in the network, inputs, first output) of the equations of these names."""
  return [
    (str(e.source_info.name_stack), [x.aval for x in e.invars], e.outvars[0].aval)
    for e in equations(function, *args)
    if re.fullmatch(names, e.primitive.name)
  ]


@pytest.mark.parametrize(
  ('name', 'precision'),
  mostly_slow(
    # Those that are not listed are settings of these.
    [(name, precision) for precision in HALVES for name in [*CAUSAL, 'dit', 'ddpm', 'mlp']],
    [('transformer', 'bfloat16'), ('dit', 'bfloat16'), ('transformer', 'float16')],
  ),
)
def test_16_bits_are_close_to_float32_and_their_gradient_finite(name, precision):
  (plain, params), (rounded, _) = (CASES[name](p) for p in ('float32', precision))
  y = small.quick_jit(plain)(params)

  def loss(params):
    z = rounded(params)
    return jnp.square(z).mean(), z

  gradient, z = small.quick_jit(jax.grad(loss, has_aux=True))(params)
  error = float(jnp.sqrt(jnp.mean((y - z) ** 2) / jnp.mean(y**2)))
  # Bfloat16 has 8 bits, float16 11.
  low, high = (1e-4, 0.05) if precision == 'bfloat16' else (1e-5, 0.006)
  assert low < error < high
  assert all(
    jnp.isfinite(leaf).all() and leaf.dtype == jnp.float32 for leaf in jax.tree.leaves(gradient)
  )


@pytest.mark.parametrize('name', NETWORKS)
def test_decoding_keeps_the_types_of_its_cache(name):
  model, emissions = model_of(name, 'bfloat16')
  params = jax.eval_shape(model.init, jax.random.key(0), emissions)['params']
  cache, inputs = model.network.init_cache(2, emissions.shape[1]), jnp.zeros((2, 1, WIDTH))
  extend = lambda params, cache: model.apply({'params': params}, inputs, cache, method='extend')
  hidden, after = jax.eval_shape(extend, params, cache)
  assert hidden.dtype == jnp.bfloat16
  before, after = (jax.tree.map(lambda leaf: leaf.dtype, part) for part in (cache, after))
  assert after == before


@pytest.mark.parametrize('family', ['diffusion', 'autoregressive'])
def test_an_unknown_precision_is_refused_in_one_line(family):
  with pytest.raises(ConfigError) as error:
    families.complete({'family': family, 'precision': 'bfloat'}, strict=True)
  assert str(error.value) == (
    "precision='bfloat' is unknown; did you mean 'bfloat16'? known: bfloat16, float16, float32"
  )


def test_a_run_keeps_its_precision_when_it_resumes():
  assert not is_changeable('precision') and is_changeable('model.chunk')
