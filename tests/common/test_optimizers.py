"""Schedules against their formulas, decay masks, and one step of each optimiser by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from common import optimizers
from common.config import ConfigError
from configs.base import get_base


def settings(**changes):
  return get_base().optimizer.to_dict() | changes


def schedule(**changes):
  return optimizers.make_schedule(settings(learning_rate=2.0, **changes), total=100, epoch=10)


def test_warm_up_rises_linearly_to_the_peak_and_its_first_step_moves():
  rate = schedule(schedule='constant', warmup='1 epoch')
  np.testing.assert_allclose(
    [rate(n) for n in range(12)], [0.2 * (n + 1) for n in range(10)] + [2, 2], rtol=1e-6
  )


def test_cosine_follows_its_formula_and_ends_at_final():
  rate = schedule(schedule='cosine', warmup='10', final=0.1)
  n = np.arange(10, 101)
  expected = 2 * (0.1 + 0.9 * 0.5 * (1 + np.cos(np.pi * (n - 10) / 90)))
  np.testing.assert_allclose([rate(k) for k in n], expected, rtol=1e-5)


def test_rsqrt_and_trapezoid():
  rate = schedule(schedule='rsqrt', warmup='10')
  np.testing.assert_allclose([rate(10), rate(40), rate(90)], [2, 1, 2 / 3], rtol=1e-6)
  rate = schedule(schedule='trapezoid', warmup='10%', cooldown='20%', final=0.0)
  np.testing.assert_allclose([rate(10), rate(79), rate(90), rate(100)], [2, 2, 1, 0], atol=1e-6)


def test_a_warm_up_longer_than_the_run_and_an_unknown_schedule_are_refused():
  with pytest.raises(ConfigError, match='no step is left to train'):
    schedule(warmup='100')
  with pytest.raises(
    ConfigError, match=r"unknown optimizer.schedule 'cosin'; did you mean 'cosine'"
  ):
    schedule(schedule='cosin')


PARAMS = {
  'dense': {'kernel': jnp.ones((2, 2)), 'bias': jnp.ones(2)},
  'norm': {'scale': jnp.ones(2)},
}


def step(params=PARAMS, gradient=0.0, **changes):
  chain = optimizers.make_optimizer(settings(**changes), lambda n: 0.1)
  grads = jax.tree.map(lambda p: jnp.full_like(p, gradient), params)
  updates, _ = chain.update(grads, chain.init(params), params)
  return optax.apply_updates(params, updates)


@pytest.mark.parametrize('name', ['adamw', 'sgd', 'muon'])
def test_weight_decay_reaches_kernels_alone(name):
  after = step(name=name, weight_decay=0.5, clip=0.0)
  np.testing.assert_allclose(after['dense']['kernel'], 1 - 0.1 * 0.5, rtol=1e-6)
  np.testing.assert_array_equal(after['dense']['bias'], 1.0)
  np.testing.assert_array_equal(after['norm']['scale'], 1.0)


def test_first_steps_by_hand():
  np.testing.assert_allclose(
    step(name='adam', gradient=3.0, eps=0.0)['dense']['bias'], 0.9, rtol=1e-6
  )
  np.testing.assert_allclose(
    step(name='sgd', gradient=3.0, clip=0.0)['dense']['bias'], 0.7, rtol=1e-6
  )
  # 8 elements of 3: norm 3·√8, clipped to 1.
  clipped = 1 - 0.1 / np.sqrt(8)
  np.testing.assert_allclose(
    step(name='sgd', gradient=3.0, clip=1.0)['dense']['bias'], clipped, rtol=1e-6
  )


def test_muon_orthogonalises_kernels():
  kernel = jnp.asarray([[3.0, 1.0], [0.0, 2.0]])
  chain = optimizers.make_optimizer(settings(name='muon', clip=0.0), lambda n: 1.0)
  params = {'kernel': jnp.zeros((2, 2))}
  updates, _ = chain.update({'kernel': kernel}, chain.init(params), params)
  singular = np.linalg.svd(updates['kernel'], compute_uv=False)
  assert singular[0] / singular[1] < 1.6  # 3.3 / 1.8 before


def test_adam_with_weight_decay_and_an_unknown_optimiser_are_refused():
  with pytest.raises(ConfigError, match="use 'adamw'"):
    step(name='adam', weight_decay=0.1)
  with pytest.raises(ConfigError, match=r"unknown optimizer.name 'adamm'"):
    step(name='adamm')
