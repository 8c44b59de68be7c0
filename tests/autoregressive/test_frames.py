"""Frames of several voices: causality, given frames, likelihood and samples."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from autoregressive.decoding.sequences import Generated
from autoregressive.decoding.sliding import slide
from autoregressive.method import build, build_model
from autoregressive.orderings import build_ordering
from common.config import ConfigError
from common.data.music import Pitches
from common.data.spec import DataSpec
from common.method import Request
from tests.autoregressive.common import DIGITS, outputs_of, perturbed, small_config

PITCHES = Pitches(60, 62)
FRAMES, VOICES = 6, 3
MUSIC = DataSpec('tune', 'music', (FRAMES, VOICES), PITCHES.levels, num_train=64, pitches=PITCHES)
CHOICES = ('together', 'apart')


def pieces(num, frames=FRAMES, seed=0):
  """Random frames."""
  x = jax.random.randint(jax.random.key(seed), (num, frames, VOICES), 0, MUSIC.levels)
  return x.astype(jnp.uint8)


def config_of(voices, **overrides):
  config = small_config(model__start='none', network__width=16, network__heads=2, **overrides)
  return config | {'ordering': dict(name='frames', voices=voices)}


@functools.cache
def music_model(voices):
  """(ordering, model, method, perturbed parameters)."""
  config = config_of(voices)
  ordering, model = build_model(config, MUSIC)
  params = jax.jit(model.init)(jax.random.key(0), ordering.encode(pieces(1)))['params']
  return ordering, model, build(config, MUSIC), perturbed(params, 0.3)


@pytest.mark.parametrize('voices', CHOICES)
def test_round_trip(voices):
  ordering = music_model(voices)[0]
  x = pieces(4)
  emissions = ordering.encode(x)
  assert emissions.shape == (4, ordering.length, ordering.values)
  np.testing.assert_array_equal(ordering.decode(emissions), x)
  if voices == 'apart':
    np.testing.assert_array_equal(emissions[0, :, 0], x[0].reshape(-1))
  longer = pieces(2, frames=9)
  np.testing.assert_array_equal(ordering.decode(ordering.encode(longer)), longer)


@pytest.mark.parametrize('voices', CHOICES)
def test_causal_by_gradient(voices):
  """A voice sees all earlier frames and, if voices are apart, the earlier voices of its frame."""
  ordering, model, _, params = music_model(voices)
  emissions = ordering.encode(pieces(2))

  def losses(nudge):
    def run(model):
      hidden, _ = model.network((model.embed(emissions) + nudge)[:, :-1])
      logits = model.head.logits(model.project(hidden))
      chosen = jnp.take_along_axis(jax.nn.log_softmax(logits), emissions[:, 1:, :, None], -1)
      return chosen.sum((0, 3)).reshape(-1)  # of each voice of each frame after the first emission

    return model.apply({'params': params}, method=run)

  nudge = jnp.zeros((ordering.length, 16))
  influence = np.asarray(jnp.abs(jax.jit(jax.jacrev(losses))(nudge)).sum(-1))
  place = np.arange(FRAMES * VOICES)
  if voices == 'apart':
    seen = place[:, None] > place[None, :]
  else:
    seen = place[:, None] // VOICES > np.arange(FRAMES)[None, :]
  seen = seen[ordering.values :]  # what comes first is only given
  assert (influence[~seen] == 0).all()
  assert (influence[seen] > 0).all()


@pytest.mark.parametrize('voices', CHOICES)
def test_likelihood_covers_all_frames_except_the_first(voices):
  ordering, model, made, params = music_model(voices)
  x = pieces(3)
  emissions = ordering.encode(x)
  each = model.head.log_prob(outputs_of(model, params, emissions), emissions[:, 1:])
  nats, error, dims, *_ = jax.jit(made.nll)(params, {'x': x}, jax.random.key(0))
  np.testing.assert_allclose(nats, -each[:, ordering.period - 1 :].sum(-1), rtol=1e-5)
  assert (dims == (FRAMES - 1) * VOICES).all() and (error == 0).all()


@pytest.mark.parametrize('voices', CHOICES)
def test_a_given_beginning_is_completed_and_cached_equals_uncached(voices):
  ordering, model, made, params = music_model(voices)
  past = np.asarray(pieces(2, frames=3, seed=1))
  samples = made.sample(params, jax.random.key(0), Request(2, past=past))
  x = np.asarray(samples.x)
  assert x.shape == (2, FRAMES, VOICES)
  np.testing.assert_array_equal(x[:, :3], past)
  emissions = ordering.encode(jnp.asarray(x))
  each = model.head.log_prob(outputs_of(model, params, emissions), emissions[:, 1:])
  given = 3 * ordering.period
  np.testing.assert_allclose(samples.log_prob[:, given:], each[:, given - 1 :], atol=1e-4)
  assert not np.asarray(samples.log_prob)[:, :given].any()
  assert samples.evaluations == ordering.length - given + 1


def test_a_longer_piece_slides_by_whole_frames():
  """Windows move by half of six frames; a place in a window holds the same voice as in training."""
  ordering, model, made, params = music_model('apart')
  past, frames = np.asarray(pieces(2, frames=2, seed=1)), 14
  options = {'length': frames, 'slide': True}
  samples = made.sample(params, jax.random.key(0), Request(2, past=past, options=options))
  x = np.asarray(samples.x)
  assert x.shape == (2, frames, VOICES)
  padded = np.pad(x, ((0, 0), (0, FRAMES), (0, 0)))
  starts = [max(0, 3 * -(-(t - FRAMES + 1) // 3)) for t in range(frames)]
  windows = np.stack([padded[:, s : s + FRAMES] for s in starts], 1).reshape(-1, FRAMES, VOICES)
  emissions = ordering.encode(jnp.asarray(windows))
  each = model.head.log_prob(outputs_of(model, params, emissions), emissions[:, 1:])
  each = np.asarray(each).reshape(2, frames, -1)
  log_prob = np.asarray(samples.log_prob).reshape(2, frames, VOICES)
  for t in range(2, frames):
    at = (t - starts[t]) * VOICES - 1
    np.testing.assert_allclose(log_prob[:, t], each[:, t, at : at + VOICES], atol=1e-4)
  with pytest.raises(ConfigError, match='beyond the 17 positions'):
    made.sample(params, jax.random.key(0), Request(2, past=past, options={'length': frames}))


def test_windows_begin_at_whole_frames():
  """Half of five frames of four voices is two frames."""
  begins = []

  def draw(window):
    begins.append(window.begin)
    emissions = window.emissions[:, window.begin : window.begin + 20]
    return Generated(emissions, np.zeros(emissions.shape[:2]), np.array([20])), False

  slide(draw, np.zeros((1, 40, 1), np.int32), np.array([4]), context=20, period=4)
  assert begins == [0, 8, 16, 24]


def test_the_first_frame_must_be_given_whole():
  _, _, made, params = music_model('apart')
  mask = np.zeros((FRAMES, VOICES), bool)
  mask[0, :2] = True
  request = Request(2, past=np.asarray(pieces(2)), mask=mask)
  with pytest.raises(ConfigError, match='needs a past of at least 3; sample 0 has 2') as error:
    made.sample(params, jax.random.key(0), request)
  assert '\n' not in str(error.value)
  mask[0] = mask[1, 0] = True  # and one voice of the second
  samples = made.sample(params, jax.random.key(0), request._replace(mask=mask))
  np.testing.assert_array_equal(np.asarray(samples.x)[:, mask], request.past[:, mask])


@pytest.mark.parametrize(
  'settings, spec, message',
  [
    (dict(voices='mixed'), MUSIC, "ordering.voices='mixed' is unknown; known: apart, together"),
    (
      {},
      DIGITS,
      "'frames' is for data of domain 'music' or 'rolls', but 'digits' has domain",
    ),
    (
      dict(name='patches'),
      MUSIC,
      "ordering 'patches' is for data of domain 'image', but 'tune' has domain 'music'",
    ),
  ],
)
def test_refuses(settings, spec, message):
  with pytest.raises(ConfigError, match=message) as error:
    build_ordering({'name': 'frames'} | settings, spec)
  assert '\n' not in str(error.value)
