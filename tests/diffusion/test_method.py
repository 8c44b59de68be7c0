"""The diffusion method: its loss, however the batch is split; its bound; wrong configs."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from common.config import ConfigError
from common.method import Request
from common.training.averages import Averaging
from common.training.state import TrainStep, init_state
from diffusion.likelihood.terms import endpoint_nats
from diffusion.method import LossInputs
from diffusion.model import (
  c_noise_conditioning,
  edm_conditioning,
  log_snr_conditioning,
  time_conditioning,
)
from diffusion.objectives.times import LossHistory
from diffusion.objectives.uncertainty import uncertainty
from diffusion.processes import build as build_process
from tests.cases import mostly_slow
from tests.diffusion.small import KEY, NUM, SPEC, batch, build, context, random_init

CASES = {
  'low_discrepancy': {},
  'uniform': {'objective__times': dict(name='uniform')},
  'edm': {
    'process': dict(name='edm'),
    'prediction__target': 'edm',
    'prediction__noise': 'edm',
    'objective__weighting': dict(name='edm'),
    'objective__times': dict(name='log_normal'),
    'objective__uncertainty': True,
  },
  'ddpm': {
    'process': dict(name='ddpm'),
    'prediction__target': 'eps',
    'prediction__variance': 'learned',
  },
}


@pytest.mark.parametrize('case', mostly_slow(CASES, ['uniform', 'edm']))
def test_loss_is_the_same_however_the_batch_is_split(case):
  method = build(**CASES[case])
  params, memory = random_init(method)
  loss = jax.jit(lambda data, index: method.loss(params, memory, data, KEY, context(params, index)))
  data, index = batch(), jnp.arange(NUM)
  whole, aux = loss(data, index)
  order = jnp.asarray(np.random.default_rng(0).permutation(NUM))
  parts = []
  for chosen in (order[:8], order[8:]):
    parts.append(loss(jax.tree.map(lambda v, c=chosen: v[c], data), chosen))
  assert float(sum(value for value, _ in parts)) / 2 == pytest.approx(float(whole), rel=1e-5)
  assert sum(float(a.count) for _, a in parts) == float(aux.count) == NUM


@pytest.mark.slow
def test_training_step_is_the_same_in_micro_batches_and_under_pmap():
  method, optimizer = build(), optax.sgd(1e-2)
  stack = jax.tree.map(lambda v: v[None], batch())
  average = Averaging(decay=0.9, warmup=True)
  make = functools.partial(TrainStep, method, optimizer, 0, average)
  start = init_state(method, optimizer, batch(), 0)
  start = start._replace(params=random_init(method)[0])
  whole, metrics = jax.jit(make())(start, stack)
  cut, _ = jax.jit(make(micro_batches=4))(start, stack)
  devices = jax.devices()[:2]
  spread = jax.tree.map(lambda v: v.reshape(1, 2, NUM // 2, *v.shape[2:]).swapaxes(0, 1), stack)
  copies = jax.tree.map(lambda v: jnp.stack([v, v]), start)
  mapped, mapped_metrics = jax.pmap(make(axis='d'), axis_name='d', devices=devices)(copies, spread)
  mapped = jax.tree.map(lambda v: v[0], mapped)
  assert float(mapped_metrics['loss'][0, 0]) == pytest.approx(float(metrics['loss'][0]), rel=1e-5)
  for other in (cut, mapped):
    for a, b in zip(jax.tree.leaves(whole.params), jax.tree.leaves(other.params), strict=True):
      np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)


def test_padding_does_not_count():
  method = build()
  params, memory = random_init(method)
  data = batch() | {'weight': jnp.arange(NUM) % 4 != 0}
  data['weight'] = data['weight'].astype(jnp.float32)
  loss = jax.jit(lambda data: method.loss(params, memory, data, KEY, context(params)))
  value, aux = loss(data)
  changed = data | {'x': data['x'].at[::4].set(0)}
  assert float(loss(changed)[0]) == float(value)
  assert float(aux.count) == 12


def test_unconditional_and_labels_hidden_only_in_training():
  free = build(conditional=False)
  params, _ = random_init(free)
  data = batch()
  other = data | {'label': (data['label'] + 1) % 3}
  value = lambda method, params, data, training: float(
    method.loss(params, (), data, KEY, context(params, training=training))[0]
  )
  assert value(free, params, data, True) == value(free, params, other, True)
  always = build(label_dropout=0.999)
  params, _ = random_init(always)
  assert value(always, params, data, True) == value(always, params, other, True)
  assert value(always, params, data, False) != value(always, params, other, False)


def test_terminal_times_are_a_regression_from_noise():
  """Target x0 at t_max only: the loss is the squared error of an image predicted from noise."""
  method = build(
    process=dict(name='rectified_flow'),
    prediction__target='x0',
    objective__times=dict(name='terminal'),
    sampling__steps=1,
  )
  params, memory = method.init(KEY, batch())  # predicts zero
  value, _ = method.loss(params, memory, batch(), KEY, context(params))
  unit = np.asarray(batch()['x']) / 2 - 1
  assert float(value) == pytest.approx(np.mean(unit**2), rel=1e-5)
  drawn = method.sample(params, KEY, Request(3, jnp.arange(3)))
  assert drawn.evaluations == 1
  np.testing.assert_array_equal(drawn.x, 2)
  assert not method.has_likelihood


def test_loss_second_moment_returns_its_memory():
  method = build(objective__times=dict(name='loss_second_moment'))
  params, memory = random_init(method)
  _, aux = method.loss(params, memory, batch(), KEY, context(params))
  assert float(aux.memory.counts.sum()) == NUM
  assert jax.tree.structure(aux.memory) == jax.tree.structure(memory)


def inputs(method, params, memory, data, index):
  return LossInputs(memory, data, KEY, context(params, index, size=len(index)))


def test_labels_are_hidden_as_often_as_said():
  method = build(label_dropout=0.3)
  data, index = batch(num=2000), jnp.arange(2000)
  label = method._diffuse({}, inputs(method, {}, (), data, index)).label
  assert float((label == 3).mean()) == pytest.approx(0.3, abs=0.04)
  np.testing.assert_array_equal(label[label != 3], data['label'][label != 3])


@pytest.mark.slow
def test_learned_variance_and_the_bound_in_the_loss():
  """With the same draws the loss is L_simple + hybrid·L_vlb, and L_vlb leaves the mean alone."""
  changes = {'process': dict(name='ddpm', schedule='cosine', steps=8)}
  changes |= {'prediction__target': 'eps', 'prediction__variance': 'learned'}
  bound = build(objective__weighting=dict(name='vlb'), **changes)
  params, memory = random_init(bound)
  data, index = batch(num=64), jnp.arange(64)

  def loss_of(method):
    value = lambda p: method.loss(p, memory, data, KEY, context(p, index, size=64))[0]
    return jax.jit(jax.value_and_grad(value))(params)

  (simple, slope), (both, other) = (
    loss_of(build(objective__hybrid=h, **changes)) for h in (0, 0.1)
  )
  assert float(both - simple) == pytest.approx(0.1 * float(loss_of(bound)[0]), rel=1e-4)
  last = lambda grads: np.asarray(grads['network']['Dense_4']['bias']).reshape(-1, 2)
  np.testing.assert_allclose(last(slope)[:, 0], last(other)[:, 0], rtol=1e-4, atol=1e-7)
  assert not last(slope)[:, 1].any() and last(other)[:, 1].all()
  # With an output of 0, the log-variance is halfway, and the loss estimates the bound of `nll`.
  start = bound.init(KEY, data)[0]
  x, t = jnp.zeros((2, 4, 4, 1)), jnp.full(2, 0.5)
  np.testing.assert_allclose(bound.model.estimate(start, x, t, None).variance_fraction, 0.5)
  many = jax.tree.map(lambda v: jnp.tile(v[:1], (4000,) + (1,) * (v.ndim - 1)), data)
  loss = bound.loss(start, memory, many, KEY, context(start, jnp.arange(4000), size=4000))[0]
  few = jax.tree.map(lambda v: v[:200], many)
  parts = bound.nll(start, few, KEY).parts
  nats = parts['diffusion'].sum(axis=1) + parts['reconstruction'].sum(axis=1)
  assert float(loss) == pytest.approx(float(nats.mean()) / 16, rel=0.1)


def test_losses_are_corrected_for_the_times():
  method = build(objective__times=dict(name='loss_second_moment', buckets=2, floor=0.1))
  params, _ = random_init(method)
  memory = LossHistory(jnp.asarray([10.0, 90.0]), jnp.asarray([10.0, 10.0]))
  losses = method._losses(params, inputs(method, params, memory, batch(), jnp.arange(NUM)))
  times = losses.noisy.times
  late = times.t > 0.5 * (method.model.process.t_min + method.model.process.t_max)
  # A quarter of the times are early, apart from the floor: 0.9/4 + 0.05.
  np.testing.assert_allclose(times.importance, jnp.where(late, 0.5 / 0.725, 0.5 / 0.275), rtol=1e-5)
  value, _ = method.loss(params, memory, batch(), KEY, context(params))
  assert float(value) == pytest.approx(float((losses.loss * times.importance).mean()), rel=1e-5)


def test_losses_are_weighed_by_their_uncertainty():
  """loss·e^(−u) + u (Karras et al. 2024, eq. 14)."""
  method, plain = (build(objective__uncertainty=on) for on in (True, False))
  params, memory = random_init(method)
  params['uncertainty'] = jax.tree.map(jnp.ones_like, params['uncertainty'])
  given = inputs(method, params, memory, batch(), jnp.arange(NUM))
  loss, _, noisy = plain._losses(params, given)
  u = uncertainty(params['uncertainty'], method.model.process.log_snr(noisy.times.t))
  assert np.abs(u).min() > 1e-3
  got = method._losses(params, given).loss
  np.testing.assert_allclose(got, loss * jnp.exp(-u) + u, rtol=1e-5, atol=1e-5)


def test_the_network_sees_an_input_of_unit_variance():
  """c_in of data of standard deviation 0.9: x/√(0.81·α² + σ²)."""
  scaled, plain = (
    build(prediction__sigma_data=0.9, prediction__scale_input=s) for s in (True, False)
  )
  params, _ = random_init(scaled)
  x, t = jax.random.normal(KEY, (2, 4, 4, 1)), jnp.asarray([0.3, 0.8])
  process = scaled.model.process
  size = jnp.sqrt(0.81 * process.alpha(t) ** 2 + process.sigma(t) ** 2)[:, None, None, None]
  y, _ = scaled.model.predict(params, x, t, None)
  np.testing.assert_allclose(y, plain.model.predict(params, x / size, t, None)[0], rtol=1e-5)


@pytest.mark.slow
def test_the_loss_of_a_learned_process():
  """The bound of the batch; its shape is trained by the mean of the squared loss alone."""
  method = build(process=dict(name='learned', width=4), objective__weighting=dict(name='vlb'))
  params, memory = random_init(method)
  given = inputs(method, params, memory, batch(), jnp.arange(NUM))

  def square(shape):
    losses = method._losses(params | {'process': params['process'] | {'shape': shape}}, given)
    return jnp.mean(losses.loss**2), (losses.loss, losses.noisy.x0, losses.noisy.eps)

  def bound(shape):
    changed = params | {'process': params['process'] | {'shape': shape}}
    return method.loss(changed, memory, batch(), KEY, context(params))[0]

  @jax.jit  # one program for both
  def slopes(shape):
    return jax.value_and_grad(square, has_aux=True)(shape), jax.value_and_grad(bound)(shape)

  ((_, (loss, x0, eps)), slope), (value, got) = slopes(params['process']['shape'])
  ends = endpoint_nats(method.model.process_at(params), x0, eps, SPEC.levels) / 16
  assert float(value) == pytest.approx(float(loss.mean() + ends.mean()), rel=1e-5)
  for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(slope), strict=True):
    assert np.abs(b).max() > 0
    np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-5 * np.abs(b).max())


@pytest.mark.slow
def test_learned_process_trains_ends_by_the_bound_and_shape_by_its_variance():
  method = build(process=dict(name='learned', width=8), objective__weighting=dict(name='vlb'))
  params, memory = random_init(method)
  keys = jax.random.split(KEY, 3)
  value = lambda process, key: method.loss(
    params | {'process': process}, memory, batch(), key, context(params)
  )[0]
  slope = jax.jit(jax.grad(value))
  process = params['process']
  grads = [slope(process, key) for key in keys]
  for part in ('ends', 'shape'):
    assert all(np.abs(leaf).max() > 0 for leaf in jax.tree.leaves(grads[0][part]))
  # The gradient of the ends is the slope of the loss; the shape's part adds nothing to its value.
  for name in ('log_snr_max', 'log_snr_min'):
    step = 0.005  # at 0.02 the curvature is 5 % of the slope
    moved = [
      value(process | {'ends': process['ends'] | {name: process['ends'][name] + sign}}, keys[0])
      for sign in (step, -step)
    ]
    expected = float(moved[0] - moved[1]) / (2 * step)
    assert float(grads[0]['ends'][name]) == pytest.approx(expected, rel=0.02)


@pytest.mark.parametrize('name', ['vlb', 'flow'])
def test_nll_uses_the_labels_and_is_reproducible(name):
  few = {'terms': 4} if name == 'vlb' else {'rtol': 1e-2, 'atol': 1e-2}
  method = build(process=dict(name='vp_linear'), likelihood=dict(name=name, **few))
  params = random_init(method)[0]
  nll = jax.jit(method.nll)
  data = batch(num=4)
  first = nll(params, data, KEY)
  assert first.nats.shape == first.standard_error.shape == (4,)
  assert (first.standard_error > 0).all()
  np.testing.assert_array_equal(first.nats, nll(params, data, KEY).nats)
  other = nll(params, data | {'label': (data['label'] + 1) % 3}, KEY)
  assert np.abs(np.asarray(first.nats - other.nats)).max() > 1e-3
  assert (nll(params, data, jax.random.key(1)).nats != first.nats).all()


def test_initial_bound_is_that_of_a_known_model():
  """A network that outputs 0 with target x0 is the model x̂0 = 0, with a known bound."""
  process = dict(name='edm', sigma_min=0.05)
  method = build(process=process, prediction__target='x0', likelihood=dict(name='vlb', terms=2000))
  params, _ = method.init(KEY, batch())
  data = batch(num=4)
  got = jax.jit(method.nll)(params, data, KEY)
  x0 = np.asarray(data['x']).reshape(4, -1) / 2 - 1
  # ½∫‖ε − x/σ‖² dλ = ½∫‖x0‖²/σ² dλ = ½‖x0‖²·(1/σ_min² − 1/σ_max²).
  expected = 0.5 * np.sum(x0**2, axis=1) * (1 / 0.05**2 - 1 / 80**2)
  expected += 0.5 * np.sum(x0**2, axis=1) / 80**2
  np.testing.assert_allclose(got.nats, expected, rtol=2e-2)


def test_classifier_is_trained_next_to_the_model_and_guides_it():
  changes = {'conditional': False, 'process': dict(name='edm')}
  plain = build(**changes)
  method = build(classifier__weight=0.5, **changes)
  params, memory = method.init(KEY, batch())
  value, aux = method.loss(params, memory, batch(), KEY, context(params))
  alone, _ = plain.loss(params, memory, batch(), KEY, context(params))
  assert float(aux.metrics['classifier']) == pytest.approx(np.log(3), rel=1e-5)  # not trained yet
  assert float(value) == pytest.approx(float(alone) + 0.5 * np.log(3), rel=1e-5)
  leaves, tree = jax.tree.flatten(params['classifier'])
  keys = jax.random.split(KEY, len(leaves))
  noisy = [v + 0.3 * jax.random.normal(k, v.shape) for v, k in zip(leaves, keys, strict=True)]
  params = random_init(method)[0] | {'classifier': jax.tree.unflatten(tree, noisy)}
  request = Request(4, jnp.arange(4) % 3, options={'steps': 8, 'guidance.classifier': 3.0})
  one = method.sample(params, KEY, request)
  other = method.sample(params, KEY, request._replace(label=(jnp.arange(4) + 1) % 3))
  assert one.evaluations == 8
  assert (one.x != other.x).any()
  outside = request._replace(options=request.options | {'guidance.low': 1e6})
  unguided = method.sample(params, KEY, Request(4, options={'steps': 8}))
  np.testing.assert_array_equal(method.sample(params, KEY, outside).x, unguided.x)
  with pytest.raises(ConfigError, match=r'classifier.weight above 0'):
    plain.sample(params, KEY, request)
  with pytest.raises(ConfigError, match=r'request with.*labels'):
    method.sample(params, KEY, request._replace(label=None))


DDPM = {'process': dict(name='ddpm')}


@pytest.mark.parametrize(
  'changes',
  [
    DDPM | {'objective__weighting': dict(name='vlb')},
    DDPM | {'prediction__target': 'eps', 'prediction__variance': 'learned'},
    {'process': dict(name='learned'), 'objective__weighting': dict(name='vlb')},
  ],
)
def test_no_augmentation_where_the_loss_contains_the_bound(changes):
  network = {'network': dict(name='dit', width=8, depth=1, heads=1)}
  with pytest.raises(ConfigError, match=r'augmentation.probability must be 0 .* got 0\.1'):
    build(**network, **changes, augmentation__probability=0.1)


def test_data_of_numbers_are_trained_on_and_sampled_as_they_are():
  """With a learned variance, like DiT on latents: neither rounded nor clipped; no likelihood."""
  spec = dataclasses.replace(SPEC, levels=0)
  method = build(spec, sampling__threshold__name='none', **CASES['ddpm'])
  params, memory = random_init(method)
  data = batch() | {'x': 3 * jax.random.normal(KEY, (NUM, *SPEC.shape))}
  loss = lambda data: method.loss(params, memory, data, KEY, context(params))
  value, aux = jax.jit(loss)(data)
  unit = build(spec, **CASES['ddpm'])._diffuse(
    params, LossInputs(memory, data, KEY, context(params))
  )
  np.testing.assert_array_equal(unit.x0, data['x'])
  assert np.isfinite(value) and float(value) > float(aux.metrics['mse'])  # the bound's part
  drawn = method.draw(params, KEY, Request(4, jnp.arange(4) % 3, options={'steps': 3}))
  assert drawn.x.dtype == jnp.float32 and np.abs(drawn.x).max() > 1
  assert len(np.unique(drawn.x)) == drawn.x.size and not method.has_likelihood
  with pytest.raises(ConfigError, match="'learned' is trained by the likelihood of whole numbers"):
    build(spec, process=dict(name='learned'), objective__weighting=dict(name='vlb'))


@pytest.mark.parametrize(
  ('changes', 'message'),
  [
    ({'network__name': 'unett'}, "did you mean 'unet'"),
    ({'network__widht': 3}, "did you mean 'width'"),
    ({'process': dict(name='rectified_flow'), 'prediction__target': 'eps'}, 'singular at t'),
    ({'prediction__target': 'noise'}, 'known: .*eps'),
    ({'prediction__noise': 'sigma'}, 'edm, log_sigma, log_snr, time'),
    ({'prediction__variance': 'learned'}, 'needs a discrete process'),
    ({'prediction__variance': 'small'}, 'fixed_small'),
    ({'process': dict(name='learned')}, "weighting 'vlb' and.*got 'simple'"),
    ({'augmentation__probability': 0.1}, 'augment_dim'),
    (
      {
        'process': dict(name='ddpm'),
        'objective__weighting': dict(name='vlb'),
        'objective__times': dict(name='log_normal'),
      },
      "uniform or corrected for.*got 'log_normal'",
    ),
    (
      {'objective__weighting': dict(name='vlb'), 'objective__times': dict(name='terminal')},
      "'vlb' is an integral over the noise levels.*got 'terminal'",
    ),
    (
      {'objective__weighting': dict(name='sigmoid'), 'objective__times': dict(name='terminal')},
      "'sigmoid' is an integral over the noise levels",
    ),
    ({'likelihood__name': 'exact'}, 'flow, vlb'),
  ],
)
def test_configs_that_cannot_be_built(changes, message):
  with pytest.raises(ConfigError, match=message):
    build(**changes)


def test_noise_conditionings():
  """A table's entry k is the authors' timestep k − 1; log-SNRs are bounded at ±20."""
  table, line = build_process({'name': 'ddpm', 'steps': 50}), build_process({'name': 'edm'})
  np.testing.assert_allclose(
    time_conditioning(table, jnp.asarray([1, 2, 26, 50]) / 50), [0, 20, 500, 980], atol=1e-3
  )
  np.testing.assert_allclose(time_conditioning(line, jnp.asarray([0.002, 40.0])), [0.025, 500])
  levels = jnp.asarray([1e-5, 0.5, 1.0, 1e5])
  np.testing.assert_allclose(
    edm_conditioning(line, levels), [-2500, 250 * np.log(0.5), 0, 2500], rtol=1e-6
  )
  np.testing.assert_allclose(
    c_noise_conditioning(line, levels), np.clip(np.log(levels) / 4, -2.5, 2.5), rtol=1e-6
  )
  np.testing.assert_allclose(
    log_snr_conditioning(line, levels), [0, 500 + 50 * np.log(0.5), 500, 1000], rtol=1e-6
  )
