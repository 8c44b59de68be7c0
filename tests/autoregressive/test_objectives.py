"""Additions to the loss against their formulas, on windows of text."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from autoregressive.heads.categorical import Categorical
from autoregressive.heads.numbers import Gaussian
from autoregressive.method import build, build_model
from autoregressive.objectives import Objective, build_objective, document_numbers
from common.config import ConfigError
from common.data.tokenizers import Characters
from common.method import Context
from tests.autoregressive.common import DIGITS, perturbed
from tests.autoregressive.texts import WINDOWS, text_config, windows
from tests.cases import slow

BATCH = windows(6)


@pytest.fixture(scope='module')
def params():
  made = build(text_config(), WINDOWS)
  return perturbed(jax.jit(made.init)(jax.random.key(0), BATCH)[0])


@pytest.fixture(scope='module')
def outputs(params):
  """(head, outputs, targets) of the batch."""
  ordering, model = build_model(text_config(), WINDOWS)
  emissions = ordering.encode(BATCH['x'])
  return model.head, model.apply({'params': params}, emissions), emissions[:, 1:]


def loss_of(params, batch=BATCH, training=True, key=1, start=0, **overrides):
  made = build(text_config(**overrides), WINDOWS)

  def run(params, batch, key):
    index = start + jnp.arange(len(batch['x']))
    return made.loss(params, (), batch, key, Context(jnp.int32(0), params, training, index, 6))

  return jax.jit(run)(params, batch, jax.random.key(key))


def test_z_loss_and_label_smoothing_by_their_formulas(params, outputs):
  head, out, targets = outputs
  log_p = np.asarray(jax.nn.log_softmax(head.logits(out)), np.float64)[:, :, 0]
  log_z = np.asarray(jax.nn.logsumexp(head.logits(out), -1), np.float64)[:, :, 0]
  one_hot = np.eye(9)[np.asarray(targets)[..., 0]]
  smoothed = 0.9 * one_hot + 0.1 / 9
  plain = -(one_hot * log_p).sum(-1).mean()
  expected = -(smoothed * log_p).sum(-1).mean() + 0.01 * (log_z**2).mean()
  regularizers = dict(objective__z_loss=0.01, objective__label_smoothing=0.1)
  loss, aux = loss_of(params, **regularizers)
  assert float(loss) == pytest.approx(expected, rel=1e-5)
  assert float(aux.metrics['loss']) == pytest.approx(plain, rel=1e-5)
  assert abs(expected - plain) > 0.01
  evaluated, _ = loss_of(params, training=False, **regularizers)
  assert float(evaluated) == pytest.approx(plain, rel=1e-5)


@pytest.mark.slow
def test_one_position_of_each_example_counts_and_all_are_equally_likely(params, outputs):
  head, out, targets = outputs
  nats = -np.asarray(head.log_prob(out, targets))
  position_weights = Objective(positions='one').position_weights
  keys = jax.random.split(jax.random.key(0), 6000)
  picked = np.asarray(position_weights(keys, 12))
  assert (picked.sum(1) == 1).all()
  assert abs(picked.mean(0) - 1 / 12).max() < 5 * np.sqrt(1 / 12 / 6000)
  loss, aux = loss_of(params, objective__positions='one')
  assert float(aux.count) == 6
  sums = {round(float(row[i]), 4) for row in nats for i in range(12)}
  part, aux = loss_of(params, {'x': BATCH['x'][:1]}, objective__positions='one')
  assert round(float(part), 4) in sums and float(aux.count) == 1
  halves = [loss_of(params, {'x': BATCH['x'][i : i + 3]}, start=i, objective__positions='one')[0]
            for i in (0, 3)]  # fmt: skip
  assert float(loss) == pytest.approx(float(sum(halves)) / 2, rel=1e-5)


@pytest.mark.parametrize('positions', [*slow(['learned']), 'rotary'])
def test_packed_documents_equal_separate_ones(positions):
  """[a SEP b SEP c]: each token is as probable as if its document were a window by itself."""
  config = text_config(network__positions=positions, objective__documents=True)
  ordering, model = build_model(config, WINDOWS)
  packed = jnp.array([[1, 2, 3, 4, 0, 5, 6, 7, 0, 8, 1, 2, 3]])
  pieces = [packed[0, :5], packed[0, 4:9], packed[0, 8:]]
  made = build(config, WINDOWS)
  init = jax.jit(made.init)(jax.random.key(0), BATCH)[0]
  params = perturbed(init)
  segments = document_numbers(ordering.encode(packed), 0, 'none')
  assert segments.tolist() == [[0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2]]
  alone = [
    model.head.log_prob(
      model.apply({'params': params}, ordering.encode(piece[None])), piece[None, 1:, None]
    )
    for piece in pieces
  ]
  batch = {'x': packed.astype(jnp.uint8)}
  likelihood = made.nll(params, batch, jax.random.key(0))
  expected = -float(sum(part.sum() for part in alone))
  assert float(likelihood.nats[0]) == pytest.approx(expected, rel=1e-5)
  assert float(likelihood.dims[0]) == 12
  loss, _ = loss_of(params, batch, network__positions=positions, objective__documents=True)
  assert float(loss) == pytest.approx(expected / 12, rel=1e-5)
  unmasked = build(text_config(network__positions=positions), WINDOWS)
  assert abs(float(unmasked.nll(params, batch, jax.random.key(0)).nats[0]) - expected) > 1e-2


def test_a_start_token_belongs_to_the_first_document():
  x = jnp.array([[1, 0, 2, 0, 3]])[..., None]
  assert document_numbers(x, 0, 'learned').tolist() == [[0, 0, 1, 1, 2]]
  assert document_numbers(x, 0, 'none').tolist() == [[0, 1, 1, 2]]


@pytest.mark.parametrize(
  ('settings', 'spec', 'message'),
  [
    (dict(z_loss=-1.0), WINDOWS, 'objective.z_loss=-1.0 must be at least 0'),
    (dict(label_smoothing=1.0), WINDOWS, r'objective.label_smoothing=1.0 must be in \[0, 1\)'),
    (dict(positions='two'), WINDOWS, "objective.positions='two' is unknown; known: all, one"),
    (dict(zloss=0.1), WINDOWS, 'unknown setting objective.zloss'),
    (dict(documents=True), DIGITS, 'digits has no token that separates documents'),
    (
      dict(documents=True),
      dataclasses.replace(WINDOWS, tokenizer=Characters('ab')),
      'letters has no token that separates documents',
    ),
  ],
)
def test_invalid_settings_are_refused(settings, spec, message):
  with pytest.raises(ConfigError, match=message) as error:
    build_objective(settings, Categorical(1, 9), spec)
  assert '\n' not in str(error.value)


def test_regularizers_need_logits():
  with pytest.raises(ConfigError, match='need a head with logits'):
    build_objective(dict(z_loss=0.1), Gaussian(1), WINDOWS)
