"""A new kind of data is one class and one line: here point clouds, through every step of a run."""

import dataclasses
import pathlib

import jax
import numpy as np
import pytest
from PIL import Image

from common import domains
from common.config import ConfigError
from common.data.modes import Modes
from common.data.music import Pitches
from common.data.pipeline import Data
from common.data.spec import DataSpec, SeriesSpec
from common.data.tokenizers import Bytes
from common.domains import DOMAINS, domain_of, image_tasks
from common.domains.base import BATCH, Domain, SampleFlags, SampleSettings, TrainedModel
from common.evaluation.evaluate import evaluate
from common.evaluation.metrics import METRICS
from common.method import Request
from common.reporting.writers import Writer
from tests.cases import evaluation_settings
from tests.common.domains.toy import Sampler, Split

SPEC = DataSpec('rings', 'clouds', (20, 2), 0, 2, ('small', 'large'), num_train=12)
SPECS = {
  'image': DataSpec('i', 'image', (8, 8, 1), 17, 10, tuple('0123456789')),
  'text': DataSpec('t', 'text', (9,), 256, tokenizer=Bytes()),
  'music': DataSpec('m', 'music', (9, 4), 93, pitches=Pitches(36, 81)),
  'rolls': DataSpec('r', 'rolls', (9, 88), 2, pitches=Pitches(21, 108), counted=True),
  'series': DataSpec('s', 'series', (8, 2), 0, 1, ('a',), series=SeriesSpec(3)),
  'points': DataSpec('p', 'points', (1, 1, 2), 0, modes=Modes(((0.0, 0.0),), 1.0)),
}
EVERY_FLAG = SampleFlags(1, 'a', 'inpaint', 'left', 1, 'a', 1, True, 'a', 'dedent', True, 1, 1)
EVERY_FLAG = dataclasses.replace(EVERY_FLAG, horizon=1, on='a', future='a', all_draws=True)
SETTINGS = evaluation_settings(batch_size=8, num_samples=12, extractor='pixels')


class CloudsDomain(Domain):
  """Points [number, 2] in [-1, 1]², shown as white pixels."""

  noun = 'point clouds'

  def as_images(self, spec, x):
    images = np.zeros((len(x), 16, 16, 1), np.uint8)
    row, column = np.clip((np.asarray(x) + 1) * 8, 0, 15).astype(int).transpose(2, 0, 1)
    images[np.arange(len(x))[:, None], row, column] = 255
    return images, 256


def rings(label, angle=0.0):
  """Points on a circle, which is twice as large for the second class."""
  angles = angle + np.linspace(0, 2 * np.pi, 20, endpoint=False)
  circle = np.stack([np.cos(angles), np.sin(angles)], -1)
  return (0.4 * (1 + np.asarray(label))[:, None, None] * circle).astype(np.float32)


def test_rates_count_the_parts_of_an_example_that_are_predicted():
  units = {name: (DOMAINS[name].unit, DOMAINS[name].units(spec)) for name, spec in SPECS.items()}
  assert units == {
    'image': ('images', 1),
    'text': ('tokens', 8),
    'music': ('frames', 8),
    'rolls': ('frames', 8),
    'series': ('windows', 1),
    'points': ('points', 1),
  }


@pytest.fixture
def trained(monkeypatch):
  monkeypatch.setitem(domains.DOMAINS, 'clouds', CloudsDomain())
  label = np.arange(12, dtype=np.int32) % 2
  splits = {name: Split(x=rings(label), label=label) for name in ('train', 'validation', 'test')}
  method = Sampler(lambda key, request: rings(request.label, jax.random.uniform(key)))
  return TrainedModel(method, {'w': np.zeros(3)}, Data(SPEC, splits), 5, 'toy', {})


def test_training_shows_a_preview_of_a_new_kind_of_data(trained, tmp_path):
  domain, method = domain_of(SPEC), trained.method
  request = domain.preview_request(SPEC, method.labelled, trained.data.splits['validation'])
  x = np.asarray(method.sample({}, jax.random.key(0), request).x)
  with Writer(tmp_path, tensorboard=False) as writer:
    domain.save_preview(trained.data, x, request, 7, tmp_path / 'samples', writer)
  with Image.open(tmp_path / 'samples' / '00000007.png') as picture:
    # Pixels four times as large, and the names of the classes at the left.
    grid = 4 * (10 * 17 + 1)
    assert picture.width > grid + 30 and picture.height == 10 * 4 * 17 + 14
  np.testing.assert_array_equal(request.label, np.repeat([0, 1], 50))


def test_evaluation_measures_and_shows_a_new_kind_of_data(trained):
  found = evaluate(trained.method, trained.params, trained.data, SETTINGS, jax.random.key(0))
  values = {name: measure.value for name, measure in found.measures.items()}
  assert values['bits_per_dim'] == pytest.approx(1 / np.log(2))
  assert values['parameters'] == 3 and values['evaluations'] == 1
  assert {k for k, value in values.items() if value is None} == METRICS.keys() - Domain.metrics
  assert found.measures['frechet'].note == 'applies only to images'
  assert found.display.picture().ndim == 3
  np.testing.assert_array_equal(found.display.label, np.repeat([0, 1], 6))


def test_the_command_writes_samples_of_a_new_kind_of_data(trained, tmp_path):
  domain = domain_of(SPEC)
  settings = SampleSettings(SampleFlags(num=3, label='large'))
  said = domain.sample(trained, settings, tmp_path / 'x.npy')
  assert said.startswith('3 samples from step 5 in ')
  np.testing.assert_allclose(np.linalg.norm(np.load(tmp_path / 'x.npy'), axis=-1), 0.8, rtol=1e-5)
  domain.sample(trained, settings, tmp_path / 'x.png')
  assert (tmp_path / 'x.png').exists()
  for flags, out, message in [
    (SampleFlags(prompt='a'), 'x.png', '--prompt=a: rings holds point clouds, drawn by .* --num'),
    (SampleFlags(), 'x.mid', 'the name must end in .png or .npy'),
  ]:
    with pytest.raises(ValueError, match=message):
      domain.check_flags(SPEC, flags, pathlib.Path(out))


def test_large_requests_are_drawn_in_calls_of_one_size_and_begin_like_small_ones(trained):
  sizes = set()

  def sample(key, request):
    sizes.add(request.num)
    assert request.label.shape == (request.num,) and len(request.past) == request.num
    noise = jax.random.uniform(key, (BATCH, 1))[: request.num]
    return np.concatenate([noise, np.asarray(request.label)[:, None], request.past], 1)

  found = {}
  for num in (5, BATCH + 2, 2 * BATCH + 50):
    label, past = np.arange(num), np.arange(num)[:, None] + 0.5
    model = trained._replace(method=Sampler(sample))
    samples, _ = model.draw(Request(num, label, past), seed=1)
    found[num] = np.asarray(samples.x)
    np.testing.assert_array_equal(found[num][:, 1:], np.concatenate([label[:, None], past], 1))
    assert samples.evaluations == 1 and samples.log_prob is None
  assert sizes == {5, BATCH}
  longest = found[2 * BATCH + 50]
  for num, x in found.items():
    np.testing.assert_array_equal(x, longest[:num])
  assert len(np.unique(longest[:, 0])) == len(longest)  # calls have keys of their own


def test_an_unknown_kind_of_data_is_refused_with_the_known_ones():
  with pytest.raises(
    ConfigError, match=r"unknown domain 'clouds'.*image, music, points, rolls, series, text"
  ):
    domain_of(SPEC)


@pytest.mark.parametrize('name', DOMAINS)
def test_every_domain_names_known_metrics_and_flags_and_takes_its_own_flags(name):
  domain, spec = DOMAINS[name], SPECS[name]
  assert domain_of(spec) is domain
  assert domain.metrics <= METRICS.keys()
  every = EVERY_FLAG.given()
  assert domain.flags.keys() <= every.keys()
  known = SampleFlags(**{flag: every[flag] for flag in domain.flags})
  for suffix in domain.suffixes:
    # Only a picture has columns and a scale.
    taken = known if suffix == '.png' else dataclasses.replace(known, columns=None, scale=None)
    # Only a table has a column for each draw.
    taken = taken if suffix == '.csv' else dataclasses.replace(taken, all_draws=None)
    domain.check_flags(spec, taken, pathlib.Path(f'x{suffix}'))
  assert not domain.default_out or pathlib.Path(domain.default_out).suffix in domain.suffixes
  assert '\n' not in domain.describe(spec)


def test_every_metric_that_does_not_apply_everywhere_says_what_it_applies_to():
  for name, metric in METRICS.items():
    assert bool(metric.scope) == (name not in Domain.metrics)


def test_images_of_numbers_are_shown_in_grey_side_by_side():
  domain, spec = domain_of(SPECS['image']), DataSpec('latents', 'image', (1, 2, 3), 0)
  x = np.array([[[[0, -3, -9], [3, 1.5, 9]]]], np.float32)
  images, levels = domain.as_images(spec, x)
  assert levels == 256 and images[0, 0, :, 0].tolist() == [128, 255, 0, 191, 0, 255]
  assert domain.describe(spec) == '1×2×3, numbers, 0 classes'
  known = np.array([[[True, False, True]] * 2])
  result = image_tasks.TaskResult(image_tasks.TaskInput(x, None, known), 'a title', x[None])
  assert (domain.task_picture(spec, 'inpaint', result, 1) == image_tasks.FILL).all(-1).sum() == 2


def test_images_of_two_channels_are_shown_side_by_side(tmp_path):
  domain, spec = domain_of(SPECS['image']), DataSpec('two', 'image', (2, 3, 2), 256)
  x = np.random.default_rng(0).integers(0, 256, (100, 2, 3, 2), np.uint8)
  images, levels = domain.as_images(spec, x)
  assert levels == 256 and images.shape == (100, 2, 6, 1)
  np.testing.assert_array_equal(images[..., 0], np.concatenate([x[..., 0], x[..., 1]], 2))
  # Training's picture, and the picture of a task whose mask hides a part of one channel.
  with Writer(tmp_path, tensorboard=False) as writer:
    request = domain.preview_request(spec, True, Split(x=x))
    domain.save_preview(Data(spec, {}), x, request, 1, tmp_path, writer)
  with Image.open(tmp_path / '00000001.png') as picture:
    assert picture.size == (11 * (10 * 7 + 1), 11 * (10 * 3 + 1))
  known = np.ones((2, 3, 2), bool)
  known[:, 0, 1] = False
  given = image_tasks.TaskInput(x[:4], None, known)
  result = image_tasks.TaskResult(given, 'a title', x[None, :4])
  shown = domain.task_picture(spec, 'inpaint', result, 1)
  assert (shown == image_tasks.FILL).all(-1).sum() == 4 * 2
