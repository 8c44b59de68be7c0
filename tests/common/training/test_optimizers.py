"""Schedules against their formulas, decay masks, and one step of each optimiser by hand."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from common.config import ConfigError
from common.training import optimizers
from configs.base import get_base


def settings(**changes):
  return get_base().optimizer.to_dict() | changes


def schedule(**changes):
  changed = settings(learning_rate=2.0, **changes)
  return optimizers.make_lr_schedule(changed, total=100, epoch=10, batch_size=64)


@pytest.mark.parametrize('warmup', ['1 epoch', '640 images'])
def test_warm_up_rises_linearly_from_a_positive_rate_to_the_peak(warmup):
  rate = schedule(schedule='constant', warmup=warmup)
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
  rate = schedule(schedule='trapezoid', warmup='0', cooldown='20', final=0.1)
  np.testing.assert_allclose([rate(80), rate(85), rate(100)], [2, 1.55, 0.2], rtol=1e-6)


def test_drop_has_two_rates():
  rate = schedule(schedule='drop', warmup='10', cooldown='50%', final=0.1)
  np.testing.assert_allclose([rate(10), rate(49), rate(50), rate(99)], [2, 2, 0.2, 0.2], rtol=1e-6)


@pytest.mark.parametrize(
  'settings', [dict(final=0.0), dict(cooldown='0'), dict(cooldown='90')], ids=str
)
def test_a_drop_to_nothing_or_at_no_step_is_refused(settings):
  with pytest.raises(ConfigError, match='below the 90 steps after the warm-up'):
    schedule(**dict(schedule='drop', warmup='10', cooldown='50', final=0.1) | settings)


def test_exponential_multiplies_the_rate_at_every_step():
  rate = schedule(schedule='exponential', warmup='10', learning_rate_decay=0.9)
  np.testing.assert_allclose([rate(10), rate(11), rate(60)], [2, 1.8, 2 * 0.9**50], rtol=1e-5)
  rate = schedule(schedule='exponential', warmup='0', learning_rate_decay=0.999995)
  np.testing.assert_allclose(rate(1_000_000), 2 * 0.999995**1_000_000, rtol=1e-5)


def test_a_warm_up_longer_than_the_run_and_an_unknown_schedule_are_refused():
  with pytest.raises(ConfigError, match='must be shorter than the run of 100 steps, got 100'):
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
def test_weight_decay_affects_only_kernels(name):
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


def test_two_steps_of_rmsprop_by_hand():
  """Gradients 3, then 0, then 2: mean squares 0.25·9, 0.75·2.25 and 0.75·1.6875 + 0.25·4."""
  s = settings(name='rmsprop', b2=0.75, eps=3.0, weight_decay=0.0, clip=0.0)
  chain = optimizers.make_optimizer(s, lambda n: 1.0)
  params, moved = {'bias': jnp.zeros(1)}, []
  state = chain.init(params)
  for gradient in (3.0, 0.0, 2.0):
    updates, state = chain.update({'bias': jnp.full(1, gradient)}, state, params)
    moved.append(-float(updates['bias'][0]))
  expected = [3 / (1.5 + 3), 0, 2 / (math.sqrt(0.75 * 1.6875 + 1) + 3)]
  np.testing.assert_allclose(moved, expected, rtol=1e-5)


@pytest.mark.parametrize('name', ['adam', 'adamw', 'muon'])
def test_two_steps_of_adam_by_hand(name):
  """Gradients 3, then 0, on a bias; Muon's part for it is Adam with Nesterov's momentum."""
  s = settings(name=name, b1=0.5, b2=0.75, eps=3.0, weight_decay=0.0, clip=0.0)
  chain = optimizers.make_optimizer(s, lambda n: 1.0)
  params = {'kernel': jnp.ones((2, 2)), 'bias': jnp.zeros(1)}
  state, moved = chain.init(params), []
  for gradient in (3.0, 0.0):
    grads = jax.tree.map(lambda p, g=gradient: jnp.full_like(p, g), params)
    updates, state = chain.update(grads, state, params)
    moved.append(-float(updates['bias'][0]))
  # Means 1.5, 0.75 over 1 - 0.5, 1 - 0.25; squares 2.25, 1.6875 over 1 - 0.75, 1 - 0.5625.
  root = math.sqrt(1.6875 / 0.4375)
  expected = [3 / (3 + 3), 1 / (root + 3)]
  if name == 'muon':  # half the next mean and half the gradient, each corrected; its epsilon is 0
    expected = [(0.5 * 1.5 / 0.75 + 0.5 * 3 / 0.5) / 3, 0.5 * 0.75 / 0.875 / root]
  np.testing.assert_allclose(moved, expected, rtol=1e-5)


def test_momentum_of_sgd_and_muon():
  """A second gradient of -0.3 times the first: with a momentum of 0.95 the direction stays."""
  params = {'kernel': jnp.zeros((2, 2))}
  for name, second in (('sgd', 0.95 - 0.3), ('muon', None)):
    s = settings(name=name, momentum=0.95, b1=0.1, weight_decay=0.0, clip=0.0)
    chain = optimizers.make_optimizer(s, lambda n: 1.0)
    first, state = chain.update({'kernel': jnp.eye(2)}, chain.init(params), params)
    update, _ = chain.update({'kernel': -0.3 * jnp.eye(2)}, state, params)
    assert update['kernel'][0, 0] * first['kernel'][0, 0] > 0
    if second:
      np.testing.assert_allclose(update['kernel'], -second * np.eye(2), rtol=1e-6)


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
  with pytest.raises(ConfigError, match=r"optimizer.name='rmsprop' has no weight decay"):
    step(name='rmsprop', weight_decay=0.1)
  with pytest.raises(ConfigError, match=r"unknown optimizer.name 'adamm'"):
    step(name='adamm')


TWO = {'base': {'kernel': jnp.ones((2, 2))}, 'head': {'kernel': jnp.ones((2, 2))}}


def moved(steps=1, gradient=3.0, total=10, **changes):
  """Parameters after some steps of constant gradients."""
  s = settings(learning_rate=0.1, schedule='constant', warmup='0', eps=0.0) | changes
  schedules = optimizers.make_group_lr_schedules(s, total, epoch=5)
  chain = optimizers.make_optimizer(s, optimizers.make_lr_schedule(s, total, 5), schedules)
  params, state = TWO, chain.init(TWO)
  for _ in range(steps):
    updates, state = chain.update(jax.tree.map(lambda p: gradient * p, TWO), state, params)
    params = optax.apply_updates(params, updates)
  return {name: float(value['kernel'][0, 0]) for name, value in params.items()}, state


def test_a_group_has_its_own_rate_decay_schedule_and_optimiser():
  group = dict(paths='^head/', learning_rate=0.01, weight_decay=0.5)
  after, _ = moved(groups={'head': group})
  assert after == pytest.approx({'base': 0.9, 'head': 1 - 0.01 - 0.01 * 0.5}, rel=1e-5)
  group = dict(paths='^head/', schedule='trapezoid', cooldown='10', final=0.0)
  after, _ = moved(steps=2, groups={'head': group})
  assert after == pytest.approx({'base': 0.8, 'head': 1 - 0.1 - 0.09}, rel=1e-5)
  group = dict(paths='^head/', name='sgd', momentum=0.0)
  after, _ = moved(groups={'head': group}, clip=0.0)
  assert after == pytest.approx({'base': 0.9, 'head': 0.7}, rel=1e-5)


def test_frozen_parameters_do_not_move_have_no_state_and_do_not_count_for_the_norm():
  after, state = moved(name='adamw', weight_decay=0.5, frozen='^base/')
  assert after['base'] == 1.0 and after['head'] < 0.9
  sizes = [x.size for x in jax.tree.leaves(state)]
  assert sum(sizes) < 2 * 4 + 4  # two moments of one kernel, and counters
  after, _ = moved(name='sgd', momentum=0.0, frozen='^base/', clip=1.0)
  assert after['head'] == pytest.approx(1 - 0.1 / 2, rel=1e-5)  # 4 elements of 3: norm 6


@pytest.mark.parametrize(
  ('changes', 'message'),
  [
    (dict(frozen='^bas/'), r"frozen='\^bas/' matches none of the 2 parameters, such as base/"),
    (dict(groups={'a': dict(paths='tail')}), "groups.a.paths='tail' matches none of the 2 param"),
    (dict(groups={'a': dict(paths='(')}), r"groups.a.paths='\(' must be a regular expression"),
    (dict(groups={'a': dict(learning_rate=1.0)}), 'groups.a needs paths, a regular expression'),
    (dict(groups={'a': dict(paths='head', rate=1.0)}), 'unknown setting optimizer.groups.a.rate'),
    (dict(groups={'a': dict(paths='head', clip=1.0)}), 'unknown setting optimizer.groups.a.clip'),
  ],
)
def test_invalid_groups_are_refused(changes, message):
  with pytest.raises(ConfigError, match=message) as error:
    moved(**changes)
  assert '\n' not in str(error.value)
