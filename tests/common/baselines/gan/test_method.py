"""The GAN: each player's gradient is that of its own loss; spectral norm; splits of the batch."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from common.baselines.gan.layers import SPECTRAL
from common.config import ConfigError
from common.data.spec import DataSpec, to_unit
from common.data.tokenizers import Bytes
from common.method import example_keys
from common.training.averages import Averaging
from common.training.state import TrainStep, init_state
from tests.cases import mostly_slow
from tests.common.baselines.gan.small import KEY, NUM, SPEC, batch, build, context, init

R1 = 0.7
LOSSES = {  # written out from the papers
  'non_saturating': (
    lambda real, fake: -jnp.log(jax.nn.sigmoid(real)) - jnp.log(1 - jax.nn.sigmoid(fake)),
    lambda fake: -jnp.log(jax.nn.sigmoid(fake)),
  ),
  'hinge': (
    lambda real, fake: -jnp.minimum(0, -1 + real) - jnp.minimum(0, -1 - fake),
    lambda fake: -fake,
  ),
}


def separate_losses(method, vectors, data, loss, r1):
  """The loss of each player as a function of its own parameters, written without the method."""
  generator, discriminator = method.players.generator, method.players.discriminator
  label, real = data['label'], to_unit(data['x'], SPEC.levels)
  of_discriminator, of_generator = LOSSES[loss]
  keys = example_keys(KEY, jnp.arange(NUM))
  z = jnp.stack([jax.random.normal(key, (generator.latent,)) for key in keys])

  def logits(theta, x, label):
    variables = {'params': theta, SPECTRAL: vectors}
    return discriminator.apply(variables, x, label, mutable=[SPECTRAL])[0]

  def generated(theta):
    return generator.apply({'params': theta}, z, label)

  def one(theta, x, label):
    return logits(theta, x[None], label[None])[0]

  def loss_of_discriminator(theta, other):
    value = of_discriminator(logits(theta, real, label), logits(theta, generated(other), label))
    # Each example by itself.
    slopes = jax.vmap(jax.grad(one, argnums=1), (None, 0, 0))(theta, real, label)
    return value.mean() + r1 / 2 * (slopes.reshape(NUM, -1) ** 2).sum(1).mean()

  def loss_of_generator(theta, other):
    return of_generator(logits(other, generated(theta), label)).mean()

  return loss_of_discriminator, loss_of_generator


QUICK = [('mlp', 'non_saturating', R1, True), ('dcgan', 'hinge', R1, False)]
GAMES = [
  # Each pair of settings.
  ('mlp', 'non_saturating', 0.0, False),
  ('mlp', 'non_saturating', R1, True),
  ('mlp', 'hinge', 0.0, True),
  ('mlp', 'hinge', R1, False),
  ('dcgan', 'hinge', R1, False),
  ('dcgan', 'non_saturating', R1, True),
  ('resnet', 'hinge', 0.0, True),
  ('resnet', 'non_saturating', R1, True),
]


@pytest.mark.parametrize(('networks', 'loss', 'r1', 'spectral'), mostly_slow(GAMES, QUICK))
def test_each_gradient_is_that_of_the_players_own_loss(networks, loss, r1, spectral):
  method = build(networks, spectral_norm=spectral, objective=dict(loss=dict(name=loss), r1=r1))
  params, memory = init(method)
  data = batch()
  value, grads = jax.jit(
    jax.value_and_grad(lambda p: method.loss(p, memory, data, KEY, context(p))[0])
  )(params)
  vectors = memory.after if spectral else {}
  players = separate_losses(method, vectors, data, loss, r1)
  generator, discriminator = params['generator'], params['discriminator']
  first, slopes = jax.jit(jax.value_and_grad(players[0]))(discriminator, generator)
  second, others = jax.jit(jax.value_and_grad(players[1]))(generator, discriminator)
  assert float(value) == pytest.approx(float(first + second), rel=1e-5)
  for name, expected in (('discriminator', slopes), ('generator', others)):
    found = jax.tree_util.tree_leaves_with_path(grads[name])
    for (path, leaf), other in zip(found, jax.tree.leaves(expected), strict=True):
      scale = np.abs(other).max()
      np.testing.assert_allclose(leaf, other, rtol=1e-4, atol=1e-5 * scale, err_msg=str(path))
    assert max(np.abs(leaf).max() for leaf in jax.tree.leaves(expected)) > 1e-3


def test_metrics_add_up_to_the_loss():
  method = build(objective=dict(r1=R1))
  params, memory = init(method)
  value, aux = method.loss(params, memory, batch(), KEY, context(params))
  metrics = aux.metrics
  parts = metrics['discriminator'] + metrics['generator'] + metrics['r1']
  assert float(value) == pytest.approx(float(parts), rel=1e-6)
  assert 0 <= float(metrics['accuracy']) <= 1 and memory == aux.memory == ()
  real = to_unit(batch()['x'], SPEC.levels)
  logits, _ = method.players.judge(params, {}, batch()['label'], real)
  assert float(metrics['real_logit']) == pytest.approx(float(logits.mean()), rel=1e-5)


@pytest.mark.parametrize('networks', ['mlp', *mostly_slow(['dcgan', 'resnet'], ['dcgan'])])
def test_after_many_iterations_the_largest_singular_value_is_one(networks):
  """Of every kernel, those of convolutions as matrices [outputs, inputs · rows · columns]."""
  method = build(networks, spectral_norm=True)
  params, memory = init(method)
  data, vectors = batch(num=2), memory.after

  @jax.jit
  def iterate(vectors):
    return method.players.judge(params, vectors, data['label'], to_unit(data['x'], 5))[1]

  for _ in range(300):
    vectors = iterate(vectors)
  names = jax.tree_util.tree_leaves_with_path(vectors)
  norms = {
    '/'.join([*(k.key for k in path[:-2]), path[-1].key.removesuffix('/sigma')]): float(value)
    for path, value in names
    if path[-1].key.endswith('/sigma')
  }
  kernels = {
    '/'.join(k.key for k in path): np.asarray(value)
    for path, value in jax.tree_util.tree_leaves_with_path(params['discriminator'])
    if value.ndim > 1
  }
  assert norms.keys() == kernels.keys() and len(norms) >= 4
  for name, kernel in kernels.items():
    matrix = np.moveaxis(kernel, -1, 0).reshape(kernel.shape[-1], -1) / norms[name]
    assert np.linalg.svd(matrix, compute_uv=False)[0] == pytest.approx(1, abs=2e-3), name


def test_spectral_norm_takes_away_the_scale_of_kernels():
  method = build('resnet', spectral_norm=True)
  params, memory = init(method)
  real, label = to_unit(batch()['x'], SPEC.levels), batch()['label']
  larger = jax.tree.map(lambda leaf: 3 * leaf if leaf.ndim > 1 else leaf, params)
  one, _ = method.players.judge(params, memory.after, label, real)
  other, _ = method.players.judge(larger, memory.after, label, real)
  np.testing.assert_allclose(other, one, rtol=1e-4)


def test_the_vectors_move_once_in_a_step_and_not_in_validation():
  method = build(spectral_norm=True)
  params, memory = init(method)
  moved = []
  for step, seed in ((0, 0), (0, 1), (1, 0)):
    aux = method.loss(params, memory, batch(seed), KEY, context(params, step=step))[1]
    memory = aux.memory
    moved.append(jax.tree.leaves(memory.after))
  first, again, following = moved
  np.testing.assert_array_equal(
    np.hstack([*map(np.ravel, first)]), np.hstack([*map(np.ravel, again)])
  )
  assert any((a != b).any() for a, b in zip(first, following, strict=True))


@pytest.mark.parametrize('spectral', [False, True])
def test_the_loss_is_the_same_however_the_batch_is_split(spectral):
  method = build(spectral_norm=spectral, objective=dict(r1=R1))
  params, memory = init(method)
  loss = jax.jit(lambda data, index: method.loss(params, memory, data, KEY, context(params, index)))
  data = batch()
  whole, aux = loss(data, jnp.arange(NUM))
  order = jnp.asarray(np.random.default_rng(0).permutation(NUM))
  parts = [
    loss(jax.tree.map(lambda v, c=chosen: v[c], data), chosen) for chosen in (order[:8], order[8:])
  ]
  assert float(sum(value for value, _ in parts)) / 2 == pytest.approx(float(whole), rel=1e-5)
  assert sum(float(a.count) for _, a in parts) == float(aux.count) == NUM


@pytest.mark.parametrize(
  ('networks', 'spectral'),
  mostly_slow([(n, s) for n in ('mlp', 'dcgan', 'resnet') for s in (False, True)], [('mlp', True)]),
)
def test_training_is_the_same_in_micro_batches(networks, spectral):
  """Two steps, so that the memory passes from the parts of one to those of the next."""
  method, optimizer = build(networks, spectral_norm=spectral, objective=dict(r1=R1)), optax.sgd(0.1)
  stack = jax.tree.map(lambda *v: jnp.stack(v), batch(0), batch(1))
  average = Averaging(decay=0.9, warmup=True)
  start = init_state(method, optimizer, batch(), 0)
  whole, metrics = jax.jit(TrainStep(method, optimizer, 0, average))(start, stack)
  cut = TrainStep(method, optimizer, 0, average, micro_batches=4)
  parts, others = jax.jit(cut)(start, stack)
  np.testing.assert_allclose(others['loss'], metrics['loss'], rtol=1e-5)
  for a, b in zip(jax.tree.leaves(whole), jax.tree.leaves(parts), strict=True):
    np.testing.assert_allclose(b, a, rtol=1e-3, atol=1e-5)


def test_padding_does_not_count():
  method = build(objective=dict(r1=R1))
  params, memory = init(method)
  data = batch() | {'weight': (jnp.arange(NUM) % 4 != 0).astype(jnp.float32)}
  loss = jax.jit(lambda data: method.loss(params, memory, data, KEY, context(params)))
  value, aux = loss(data)
  changed = data | {'x': data['x'].at[::4].set(0), 'label': data['label'].at[::4].set(0)}
  again, other = loss(changed)
  assert float(again) == float(value) and float(aux.count) == 12
  assert other.metrics == aux.metrics


def test_an_unconditional_gan_takes_no_classes():
  data = batch()
  other = data | {'label': (data['label'] + 1) % 3}
  for conditional in (False, True):
    method = build(conditional=conditional)
    params, memory = init(method)
    value, changed = (
      float(method.loss(params, memory, d, KEY, context(params))[0]) for d in (data, other)
    )
    assert (value == changed) == (not conditional) == (not method.labelled)


def test_there_is_no_likelihood():
  method = build()
  assert not method.has_likelihood
  with pytest.raises(ConfigError, match=r'^a GAN has no likelihood: '):
    method.nll({}, batch(), KEY)


@pytest.mark.parametrize(
  ('changes', 'message'),
  [
    (dict(discriminator=dict(name='dcgan', multipliers=(1, 1, 1, 1))), 'multiples of 16, got 8x8'),
    (dict(generator=dict(name='resnet', multipliers=(1, 1, 1, 1))), 'generator.multipliers has 4'),
    (dict(generator=dict(name='dcgn')), "unknown generator 'dcgn'; did you mean 'dcgan'"),
    (dict(objective=dict(loss=dict(name='hing'))), "unknown objective.loss 'hing'; did you mean"),
    (dict(discriminator=dict(name='mlp', widht=3)), 'unknown setting discriminator.widht'),
  ],
)
def test_a_config_that_does_not_fit_is_refused(changes, message):
  with pytest.raises(ConfigError, match=message):
    build(**changes)


def test_other_data_are_refused():
  text = DataSpec('text', 'text', (9,), 256, tokenizer=Bytes())
  with pytest.raises(ConfigError, match=r"'text' has shape \[9\]: use family 'diffusion' or"):
    build(spec=text)
