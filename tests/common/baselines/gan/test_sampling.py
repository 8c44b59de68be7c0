"""Samples of a GAN: which random numbers they depend on, options, refusals."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from common.baselines.gan.sampling import DRAW_CLASS, run_generator, with_options
from common.config import ConfigError
from common.method import NotFiniteError, Request, example_keys
from tests.common.baselines.gan.small import KEY, POINTS, SPEC, build, init

LABEL = jnp.arange(6) % 3


@pytest.fixture(scope='module')
def model():
  method = build('dcgan')
  return method, init(method)[0]


def test_samples_are_data_and_take_one_evaluation(model):
  method, params = model
  samples = method.draw(params, KEY, Request(6, LABEL))
  assert samples.x.shape == (6, *SPEC.shape) and samples.x.dtype == jnp.uint8
  assert samples.evaluations == 1 and samples.finite.all()
  assert int(samples.x.max()) < SPEC.levels and len(np.unique(samples.x, axis=0)) == 6


def test_the_first_samples_do_not_depend_on_their_number(model):
  method, params = model
  few = method.draw(params, KEY, Request(3, LABEL[:3]))
  np.testing.assert_array_equal(few.x, method.draw(params, KEY, Request(6, LABEL)).x[:3])
  assert (method.draw(params, jax.random.key(1), Request(3, LABEL[:3])).x != few.x).any()


def test_classes_are_those_requested_or_random(model):
  method, params = model
  one, other = (method.draw(params, KEY, Request(6, label)).x for label in (LABEL, (LABEL + 1) % 3))
  assert (one != other).reshape(6, -1).any(1).all()
  keys = jax.vmap(jax.random.fold_in, (0, None))(example_keys(KEY, jnp.arange(60)), DRAW_CLASS)
  label = jnp.stack([jax.random.randint(key, (), 0, 3) for key in keys])
  assert (np.bincount(label) > 10).all()
  free, chosen = (method.draw(params, KEY, Request(60, each)).x for each in (None, label))
  np.testing.assert_array_equal(free, chosen)


def test_truncated_noise_is_a_truncated_normal(model):
  method, params = model
  keys = example_keys(KEY, jnp.arange(4000))
  noise = np.asarray(method.players.noise(keys, jnp.float32(0.8))).ravel()
  assert np.abs(noise).max() <= 0.8
  assert stats.kstest(noise, stats.truncnorm(-0.8, 0.8).cdf).pvalue > 1e-3
  plain = np.asarray(method.players.noise(keys)).ravel()
  assert stats.kstest(plain, 'norm').pvalue > 1e-3
  # Another threshold compiles nothing.
  request = Request(6, LABEL, options={'truncation': 0.5})
  near = method.draw(params, KEY, request)
  before = run_generator._cache_size()
  method.draw(params, KEY, request._replace(options={'truncation': 0.7}))
  assert run_generator._cache_size() == before
  assert (near.x != method.draw(params, KEY, Request(6, LABEL)).x).any()


def test_numbers_are_not_bounded():
  method = build(spec=POINTS)
  params, _ = init(method, POINTS)
  large = jax.tree.map(lambda leaf: 4 * leaf, params)
  samples = method.draw(large, KEY, Request(50))
  assert samples.x.dtype == jnp.float32 and np.abs(samples.x).max() > 1
  with pytest.raises(ConfigError, match='the request has labels, but the model is unconditional'):
    method.sample(params, KEY, Request(6, LABEL))


@pytest.mark.parametrize(
  ('request_', 'message'),
  [
    (Request(0), 'must be at least 1, got 0'),
    (Request(5, LABEL), r'5 samples need 5 labels, got an array of shape \(6,\)'),
    (Request(6, LABEL, jnp.zeros((6, 8, 8, 1))), 'cannot complete or edit given ones'),
    (Request(6, LABEL, mask=jnp.ones((8, 8, 1), bool)), 'cannot complete or edit given ones'),
    (Request(6, options={'truncatoin': 1.0}), "'truncatoin'; did you mean 'truncation'"),
    (Request(6, options={'truncation': -1.0}), r'truncation=-1.0 must be at least 0 \(0: off\)'),
  ],
)
def test_a_request_that_cannot_be_answered_is_refused(model, request_, message):
  method, params = model
  with pytest.raises(ConfigError, match=message):
    method.check_request(None, request_)
  with pytest.raises(ConfigError, match=message):
    method.sample(params, KEY, request_)


def test_a_request_is_checked_without_drawing(model):
  method, params = model
  shapes = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), params)
  method.check_request(shapes, Request(6, LABEL))
  x, finite = method.sampling_program(params, Request(6, LABEL)).run()
  np.testing.assert_array_equal(x, method.sample(params, jax.random.key(0), Request(6, LABEL)).x)
  assert finite.all() and with_options({'truncation': 0.0}, {}) == {'truncation': 0.0}


def test_samples_that_are_not_finite_are_found(model):
  method, params = model
  broken = jax.tree.map(lambda leaf: leaf * jnp.nan, params)
  with pytest.raises(NotFiniteError, match='6 of 6 samples are not finite'):
    method.draw(broken, KEY, Request(6, LABEL))
