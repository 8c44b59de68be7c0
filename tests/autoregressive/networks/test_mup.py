"""muP: the coordinate check (Yang et al. 2022, appendix D.1), and equality at the base width."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from autoregressive.interop.layouts.base import join_heads, split_heads
from autoregressive.method import build_model
from tests.autoregressive.common import outputs_of, perturbed
from tests.autoregressive.texts import WINDOWS, text_config, windows

WIDTHS = (32, 128, 512)
BATCH = windows(8)


def trained(width, base_width, steps=4, rate=0.01):
  """How far the outputs moved in a few steps of Adam."""
  config = text_config(network__base_width=base_width, network__layers=1)
  config['network'] |= dict(width=width, heads=2)
  ordering, model = build_model(config, WINDOWS)
  emissions = ordering.encode(BATCH['x'])
  params = jax.jit(model.init)(jax.random.key(0), emissions)['params']
  optimizer = optax.adam(rate)

  def outputs(params):
    return model.apply({'params': params}, emissions)

  def loss(params):
    return -model.head.log_prob(outputs(params), emissions[:, 1:]).mean()

  @jax.jit
  def run(params):
    def step(carry, _):
      params, state = carry
      updates, state = optimizer.update(jax.grad(loss)(params), state)
      return (optax.apply_updates(params, updates), state), None

    (after, _), _ = jax.lax.scan(step, (params, optimizer.init(params)), None, length=steps)
    return jnp.abs(outputs(after) - outputs(params)).mean()

  return float(run(params))


def slope(base_width):
  """d log(movement) / d log(width)."""
  moved = [trained(width, base_width) for width in WIDTHS]
  return np.polyfit(np.log(WIDTHS), np.log(moved), 1)[0]


@pytest.mark.slow
def test_only_with_mup_steps_move_outputs_equally_at_every_width():
  assert abs(slope(base_width=32)) < 0.2
  assert slope(base_width=0) > 0.4


def test_the_factors_of_table_8_by_hand():
  """At four times the base width: the standard network with scaled weights, queries and outputs."""
  built = [
    build_model(text_config(network__base_width=base, network__layers=1), WINDOWS)
    for base in (4, 0)
  ]
  (ordering, model), (_, standard) = built
  assert model.network.width == 16 and model.network.output_scale == 1 / 4
  emissions = ordering.encode(BATCH['x'])
  params = perturbed(jax.jit(model.init)(jax.random.key(0), emissions)['params'])
  block = params['network']['block_0']
  quarter = lambda dense: dense | {'kernel': dense['kernel'] / 4}
  scaled = {name: quarter(block[name]) for name in ('up', 'down')}
  qkv = quarter(block['attention']['qkv'])
  for part, values in qkv.items():  # the scores are divided by the dimension, not by its root
    query, key, value = split_heads(values, model.network)
    qkv[part] = join_heads(query / 2, key, value, model.network)
  scaled['attention'] = block['attention'] | {'qkv': qkv, 'out': quarter(block['attention']['out'])}
  changed = params | {'network': params['network'] | {'block_0': block | scaled}}
  expected = outputs_of(standard, changed, emissions) / 4
  np.testing.assert_allclose(outputs_of(model, params, emissions), expected, atol=1e-5)


@pytest.mark.slow
def test_at_the_base_width_mup_is_the_standard_parametrisation():
  assert trained(32, 32) == pytest.approx(trained(32, 0), rel=1e-4)
