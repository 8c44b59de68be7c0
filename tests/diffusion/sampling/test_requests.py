"""Requests for samples of a diffusion method: options, guidance, editing tasks, wrong requests."""

import logging

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from common.config import ConfigError
from common.method import NotFiniteError, Request
from tests.diffusion.small import KEY, SPEC, batch, build, edm_method, random_init


def test_guidance_counts_and_steers():
  method, params = edm_method()
  request = Request(4, jnp.zeros(4, jnp.int32))
  plain = method.sample(params, KEY, request)
  guided = method.sample(params, KEY, request._replace(options={'guidance': 3.0}))
  assert plain.evaluations == 50
  assert guided.evaluations == 100
  assert plain.x.dtype == np.uint8
  assert plain.x.max() < SPEC.levels
  assert (plain.x != guided.x).any()
  half = method.sample(
    params, KEY, request._replace(options={'guidance': 3.0, 'guidance.high': 1.0})
  )
  assert 50 < half.evaluations < 100


def test_autoguidance_by_a_weaker_model():
  method, params = edm_method()
  weak = random_init(method, seed=9)[0]
  request = Request(4, jnp.zeros(4, jnp.int32), options={'guidance': 2.0, 'weak': weak, 'steps': 4})
  drawn = method.sample(params, KEY, request)
  assert drawn.evaluations == 8
  alone = method.sample(params, KEY, request._replace(options={'steps': 4}))
  by_itself = method.sample(
    params, KEY, request._replace(options={'guidance': 2.0, 'weak': params, 'steps': 4})
  )
  np.testing.assert_array_equal(by_itself.x, alone.x)  # guiding a model by itself changes nothing
  assert (drawn.x != alone.x).any()
  with pytest.raises(ValueError, match='a weak model has no effect at guidance=1'):
    method.sample(params, KEY, request._replace(options={'weak': weak}))


def test_samples_that_are_not_finite_are_refused_and_not_drawn_black():
  method, params = edm_method()
  broken = jax.tree.map(lambda x: jnp.nan * x, params)
  request = Request(4, jnp.zeros(4, jnp.int32), options={'steps': 4})
  assert method.sample(params, KEY, request).num_not_finite() == 0
  with pytest.raises(ValueError, match='4 of 4 samples are not finite'):
    method.draw(broken, KEY, request)


def test_an_adaptive_solver_that_runs_out_of_steps_is_an_error():
  method, params = edm_method()
  options = {'sampler': 'adaptive', 'max_steps': 1, 'steps': 1, 'grid.end': 't_min'}
  request = Request(2, jnp.zeros(2, jnp.int32), options=options)
  with pytest.raises(NotFiniteError, match='2 of 2 samples are not finite'):
    method.draw(params, KEY, request)


def test_steps_within_a_bucket_and_the_weight_do_not_recompile(caplog):
  method, params = edm_method()
  request = Request(3, jnp.arange(3))
  draw = lambda **options: method.sample(params, KEY, request._replace(options=options))
  assert draw(steps=10).evaluations == 10
  draw(steps=10, guidance=2.0)
  with jax.log_compiles(), caplog.at_level(logging.WARNING):
    assert draw(steps=13).evaluations == 13
    assert draw(steps=16, rho=3.0).evaluations == 16
    assert draw(steps=7, guidance=4.0).evaluations == 14
    compiled = [r.getMessage() for r in caplog.records if 'Compiling' in r.getMessage()]
    assert not [text for text in compiled if 'run_sampler' in text]
    draw(steps=40)
    compiled = [r.getMessage() for r in caplog.records if 'Compiling' in r.getMessage()]
    assert [text for text in compiled if 'run_sampler' in text]


def test_options_name_a_sampler_a_grid_and_their_settings():
  method, params = edm_method()
  request = Request(2, jnp.arange(2))
  draw = lambda **options: method.sample(
    params, KEY, request._replace(options={k.replace('__', '.'): v for k, v in options.items()})
  )
  assert draw(sampler='heun', steps=6).evaluations == 11
  same = draw(steps=6, sampler='ddim', grid='karras', rho=7.0, eta=0.0)
  np.testing.assert_array_equal(same.x, draw(steps=6).x)
  assert (draw(steps=6, eta=1.0).x != same.x).any()
  assert (draw(steps=6, grid='uniform').x != same.x).any()
  np.testing.assert_array_equal(draw(steps=6, grid__rho=7.0).x, same.x)
  assert draw(steps=6, grid__end='t_min').evaluations == 6
  assert draw(steps=6, grid__end='t_min', final_denoise=True).evaluations == 7


def test_editing_tasks():
  method, params = edm_method()
  past = batch(num=2)['x']
  mask = jnp.zeros((4, 4, 1)).at[:2].set(1)
  draw = lambda past, mask, **options: method.sample(
    params, KEY, Request(2, jnp.arange(2), past, mask, {'steps': 8} | options)
  )
  for options in ({}, {'task': 'inpaint'}, {'task': 'repaint', 'jump': 4, 'repeats': 2}):
    drawn = draw(past, mask, **options)
    np.testing.assert_array_equal(drawn.x[:, :2], past[:, :2])
    assert (drawn.x[:, 2:] != past[:, 2:]).any()
    assert drawn.evaluations == (16 if 'jump' in options else 8)
  little = draw(past, None, task='sdedit', strength=0.25)
  assert little.evaluations == 2
  away = lambda drawn: np.abs(np.asarray(drawn.x, float) - np.asarray(past, float)).mean()
  assert away(little) < away(draw(past, None, task='sdedit', strength=1.0))
  # This network is untrained, but any flow can be run backwards and forwards again.
  again = draw(past, None, task='reconstruct', steps=200, threshold='none', sampler='heun')
  np.testing.assert_array_equal(again.x, past)


def test_final_denoising_is_heeded_or_refused():
  method, params = edm_method()
  past, mask = batch(num=2)['x'], jnp.zeros((4, 4, 1)).at[:2].set(1)
  draw = lambda **options: method.sample(
    params, KEY, Request(2, jnp.arange(2), past, options={'steps': 4} | options)
  )
  repaint = {'task': 'repaint', 'jump': 2, 'repeats': 2, 'grid.end': 't_min'}
  for task, evaluations in ((repaint, 4 * 2 + 1), ({'grid.end': 't_min'}, 4 + 1)):
    options = {'steps': 4, 'final_denoise': True} | task
    drawn = method.sample(params, KEY, Request(2, None, past, mask, options))
    assert drawn.evaluations == evaluations
    np.testing.assert_array_equal(drawn.x[:, :2], past[:, :2])
  for task in ('reconstruct', 'interpolate'):
    with pytest.raises(ConfigError, match=f"'{task}' has no final denoising: set final_denoise"):
      draw(task=task, final_denoise=True)


def test_a_learned_variance_is_sampled_with():
  """One truth: `prediction.variance`, unless the sampler names another."""
  method = build(process=dict(name='ddpm', steps=50), prediction__variance='learned')
  params = random_init(method)[0]
  draw = lambda **options: (
    method.sample(params, KEY, Request(2, options={'sampler': 'ancestral', 'steps': 4} | options)).x
  )
  np.testing.assert_array_equal(draw(), draw(variance='learned'))
  assert (draw() != draw(variance='fixed_small')).any()
  method, params = edm_method()
  with pytest.raises(ValueError, match=r"needs a model with prediction.variance='learned'"):
    draw(variance='learned')


@pytest.mark.parametrize(
  ('request_', 'message'),
  [
    (Request(2, options={'stps': 5}), "unknown sampling option 'stps'.*did you mean 'steps'"),
    (Request(2, options={'sampler': 'dimm'}), "did you mean 'ddim'"),
    (Request(2, options={'rho': 3.0, 'grid': 'uniform'}), "unknown sampling option 'rho'"),
    (Request(2, options={'steps': 0}), 'steps must be at least 1, got 0'),
    (Request(2, options={'steps': 2.5}), 'steps=2.5 must be a whole number, such as 50'),
    (Request(2, options={'eta': 2.0}), 'eta=2.0 must be in'),
    (Request(2, options={'eta': 'high'}), "eta='high' must be a number, such as 0.0"),
    (Request(2, options={'sampler': 'edm', 's_churn': True}), 's_churn=True must be a number'),
    (Request(2, options={'guidance': 'strong'}), "guidance='strong' must be a number"),
    (Request(2, options={'guidance': 2.0}), 'needs classes to guide to.*no labels'),
    (Request(2, jnp.arange(3)), '2 samples need 2 labels'),
    (Request(0), 'at least 1'),
    (Request(2, options={'task': 'inpaint'}), 'takes past and mask; past is missing'),
    (Request(2, past=jnp.zeros((2, 4, 4, 1), jnp.uint8)), 'past is given'),
    (
      Request(2, past=jnp.zeros((2, 5, 4, 1), jnp.uint8), options={'task': 'sdedit'}),
      r'past must be of shape \(2, 4, 4, 1\)',
    ),
    (
      Request(2, past=jnp.zeros((2, 4, 4, 1), jnp.uint8), mask=jnp.ones((3, 4, 1))),
      'a mask of shape',
    ),
    (
      Request(2, past=jnp.zeros((2, 4, 4, 1), jnp.uint8), mask=jnp.full((4, 4, 1), 0.5)),
      'a mask must hold only 1',
    ),
    (Request(2, options={'task': 'paint'}), 'did you mean'),
    (Request(2, options={'threshold': 'hard'}), 'dynamic, none, static'),
  ],
)
def test_requests_that_cannot_be_met(request_, message):
  method, params = edm_method()
  with pytest.raises(ValueError, match=message):
    method.sample(params, KEY, request_)


def test_guidance_without_a_conditional_model():
  method = build(conditional=False)
  params, _ = method.init(KEY, batch())
  with pytest.raises(ConfigError, match='unconditional'):
    method.sample(params, KEY, Request(2, options={'guidance': 2.0}))
  with pytest.raises(ConfigError, match='unconditional'):
    method.sample(params, KEY, Request(2, jnp.arange(2)))
  assert not method.labelled and build().labelled
  method = build(label_dropout=0.0)
  params, _ = method.init(KEY, batch())
  with pytest.raises(ConfigError, match='label_dropout is 0'):
    method.sample(params, KEY, Request(2, jnp.arange(2), options={'guidance': 2.0}))
