"""Piano rolls: nats per frame of whole pieces, whatever the windows, and samples."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from autoregressive.method import build
from common.data import pipeline
from common.domains import domain_of
from common.domains.base import SampleFlags, SampleSettings, TrainedModel
from common.evaluation.evaluate import evaluate
from common.method import Context
from tests.autoregressive.common import perturbed, small_config
from tests.cases import evaluation_settings
from tests.common.data.rolls import random_pieces, write_collection

SETTINGS = evaluation_settings(batch_size=4, num_samples=4)
OTHER = dict(
  model__start='none',
  model__output_bias=True,
  ordering=dict(name='frames'),
  head=dict(name='bernoulli'),
)
NETWORK = dict(width=8, layers=2, kernel=2, growth=2, dropout=0.0, weight_norm=False)
REACH = 1 + 2 * (2 - 1) * (1 + 2)  # frames that a position of this network sees


@pytest.fixture
def load(tmp_path, monkeypatch):
  """A function of data settings that loads the same pieces."""
  settings = write_collection(monkeypatch, tmp_path, random_pieces())
  return functools.partial(_load, settings)


def _load(settings, **changed):
  return pipeline.load(settings | changed)


def model(data, voices='together'):
  """(method, perturbed parameters)."""
  config = small_config(**OTHER) | {'network': dict(name='tcn', **NETWORK)}
  config['ordering'] = dict(name='frames', voices=voices)
  made = build(config, data.spec)
  params = jax.jit(made.init)(jax.random.key(0), {'x': jnp.zeros((1, *data.spec.shape), int)})[0]
  return made, perturbed(params)


def nats_of(data, params):
  """Nats per frame of the test split."""
  made, _ = model(data)
  found = evaluate(made, params, data, SETTINGS, jax.random.key(0), ['nats_per_position'])
  measure = found.measures['nats_per_position']
  assert measure.note.endswith('exact')  # no second value, as that of bits/dim has
  return measure.value


def test_windows_that_overlap_by_the_receptive_field_score_like_whole_pieces(load):
  whole = load(context=22)  # the longest piece has 23 frames
  _, params = model(whole)
  expected = nats_of(whole, params)
  for overlap, same in ((REACH, True), (1, False)):
    found = nats_of(load(context=10, overlap=overlap), params)
    assert (abs(found / expected - 1) < 1e-5) == same


def test_independent_keys_have_the_entropy_of_their_shares(load):
  data = load(context=10, overlap=3)
  made, params = model(data)
  rate = np.linspace(0.4, 0.01, 88)
  params = jax.tree.map(jnp.zeros_like, params)
  params['output_proj']['bias'] = jnp.log(rate / (1 - rate))
  frames = np.concatenate([piece[1:] for piece in random_pieces()['test']])
  nats = -(frames * np.log(rate) + (1 - frames) * np.log1p(-rate)).sum(1).mean()
  assert nats_of(data, params) == pytest.approx(nats, rel=1e-5)
  # Training and validation average over the same frames, per key.
  source = data.splits['test']
  batch = jax.tree.map(jnp.asarray, source.gather(np.arange(len(source))))
  context = Context(jnp.int32(0), params, True, jnp.arange(len(source)), len(source))
  loss, aux = made.loss(params, (), batch, jax.random.key(1), context)
  assert float(loss) == pytest.approx(nats / 88, rel=1e-5) and aux.count == len(frames) * 88


def test_keys_enter_the_network_as_numbers(load):
  made, params = model(load(context=10))
  frames = np.random.default_rng(0).integers(0, 2, (2, 3, 88))
  expected = frames @ params['input_proj']['kernel'] + params['input_proj']['bias']
  found = made.model.apply({'params': params}, jnp.asarray(frames, jnp.int32), method='embed')
  np.testing.assert_allclose(found, expected, atol=1e-5)


def test_keys_apart_count_as_their_frames_do(load):
  data = load(context=10, overlap=3)
  made, params = model(data, 'apart')
  batch = data.splits['test'].gather(np.arange(2))
  dims = jax.jit(made.nll)(params, batch, jax.random.key(0)).dims
  np.testing.assert_array_equal(dims, 88 * batch['counted'].sum(1))


def test_a_model_draws_a_picture_an_array_and_midi(load, tmp_path):
  pytest.importorskip('mido')
  data = load(context=10)
  made, params = model(data)
  trained = TrainedModel(made, params, data, 3, 'autoregressive', {})
  domain = domain_of(data.spec)
  settings = SampleSettings(SampleFlags(num=2, length=5))
  x = domain.draw(trained, settings)
  assert x.shape == (2, 6, 88) and np.isin(x, (0, 1)).all()
  first = data.splits['train'].gather(np.arange(2))['x'][:, 0]
  np.testing.assert_array_equal(x[:, 0], first)
  for suffix in domain.suffixes:
    out = tmp_path / f'x{suffix}'
    domain.check(trained, settings, out)
    assert '2 pieces of 6 frames' in domain.sample(trained, settings, out)
  np.testing.assert_array_equal(np.load(tmp_path / 'x.npy'), x)
  # The second piece is the beginning of another, up to its last frame that sounds.
  prompt = tmp_path / 'x-2.mid'
  settings = SampleSettings(SampleFlags(num=1, length=3, prompt=str(prompt)))
  longer = domain.draw(trained, settings)
  given = longer.shape[1] - 3
  np.testing.assert_array_equal(longer[0, :given], x[1, :given])
  assert not x[1, given:].any() and math.prod(longer.shape) == (given + 3) * 88
