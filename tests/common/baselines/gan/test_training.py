"""Whole runs of a GAN: points on a ring, digits, a likelihood refused, a run that diverges."""

import jax
import numpy as np
import pytest

from common.config import ConfigError
from common.data import pipeline
from common.data.pipeline import Data
from common.data.sources import GivenSource
from common.domains import image_tasks
from common.domains.base import TrainedModel
from common.evaluation.evaluate import check_request, evaluate
from common.method import Request
from common.training import loop
from common.training.meters import TrainingError
from common.training.parallel import make_mesh
from common.training.program import build_program
from experiments import families
from tests.common.baselines.gan.small import KEY, POINTS, config

MODES = 8
CORNERS = np.exp(2j * np.pi * np.arange(MODES) / MODES)


def ring(num, seed):
  """Points [num, 1, 1, 2] near eight corners of a regular polygon."""
  random = np.random.default_rng(seed)
  z = CORNERS[random.integers(MODES, size=num)]
  z = z + 0.05 * (random.normal(size=num) + 1j * random.normal(size=num))
  return np.stack([z.real, z.imag], -1).astype(np.float32).reshape(num, 1, 1, 2)


DATA = Data(
  POINTS,
  {
    name: GivenSource({'x': ring(512, seed)})
    for seed, name in enumerate(('train', 'validation', 'test'))
  },
)


def settings(steps, data=None, **optimizer):
  """A config of a short run that draws and measures nothing on the way."""
  wide = dict(
    generator=dict(name='mlp', width=64, latent=4), discriminator=dict(name='mlp', width=64)
  )
  found = config(**wide, objective=dict(r1=0.1))
  found['data'] |= dict(batch_size=128) | (data or {})
  found['optimizer'] |= dict(
    name='adam', learning_rate=1e-3, schedule='constant', warmup='0', b1=0.0, clip=0.0
  )
  found['optimizer'] |= optimizer
  found['train'] |= dict(steps=str(steps), steps_per_call=50, checkpoint_every='0', log_every='50')
  found['train'] |= dict(evaluate_every='50', sample_every='0')
  return found


def trained(settings, data):
  """(method, initial parameters, averaged parameters, metrics of every step) of a run."""
  method = families.build(settings, data.spec)
  program = program_of(settings, method, data)
  step, state = program.step, program.step.create_state(program.init)
  initial, found = jax.device_get(state.ema), []
  for _, _, batches in loop.batches_by_call(settings, data, program, 0):
    state, metrics = step.run(state, step.put_batches(batches))
    found.append(jax.device_get(metrics))
  together = {name: np.concatenate([each[name] for each in found]) for name in found[0]}
  return method, initial, state.ema, together


def program_of(settings, method, data):
  mesh = make_mesh(settings['parallel'], jax.devices()[:1])
  return build_program(settings, method, data.spec, mesh)


def missed(method, params):
  """(mean distance of 500 samples to the nearest corner, corners with fewer than 10 samples)."""
  x = np.asarray(method.draw(params, KEY, Request(500)).x).reshape(-1, 2)
  distances = np.abs((x[:, 0] + 1j * x[:, 1])[:, None] - CORNERS)
  counts = np.bincount(distances.argmin(1)[distances.min(1) < 0.3], minlength=MODES)
  return distances.min(1).mean(), int((counts < 10).sum())


def test_points_on_a_ring_are_learnt():
  method, before, after, metrics = trained(settings(1500, learning_rate=3e-3), DATA)
  distance, empty = missed(method, before)
  assert distance > 0.4 and empty >= 4
  distance, empty = missed(method, after)  # 0.17 and 0
  assert distance < 0.25 and empty <= 1
  assert all(np.isfinite(values).all() for values in metrics.values())


def test_bits_per_dim_is_refused():
  method = families.build(settings(50), POINTS)
  measured = settings(50)['evaluation']
  with pytest.raises(ConfigError, match='metric bits_per_dim of points: the method has no likelih'):
    check_request(method, DATA, measured, ['bits_per_dim'], {})
  check_request(method, DATA, measured, ['evaluations'], {'truncation': 1.0})


def test_it_has_no_tasks_on_given_images():
  method = families.build(settings(50), POINTS)
  trained = TrainedModel(method, {}, DATA, 0, 'gan', families.FAMILIES['gan'].tasks)
  with pytest.raises(ValueError, match="--task=inpaint: family 'gan' has no tasks"):
    image_tasks.first_request(trained, 'inpaint', num=1, label=None, mask=None, seed=0, options={})


def test_a_run_that_diverges_ends_with_an_error_that_says_so(tmp_path):
  config = settings(400, name='sgd', learning_rate=1e30, momentum=0.0)
  config['train'] |= dict(max_bad_steps=5)
  method = families.build(config, POINTS)
  program = program_of(config, method, DATA)
  with pytest.raises(TrainingError, match=r'the gradient was not finite in \d+ steps in a row'):
    loop.train(config, method, DATA, program, tmp_path)
  rows = (tmp_path / 'metrics.jsonl').read_text() if (tmp_path / 'metrics.jsonl').exists() else ''
  assert 'NaN' not in rows


@pytest.mark.slow
def test_digits_come_closer_to_the_data():
  # Narrow and with small batches: convolutions are slow without optimisation.
  small = {'train.steps': '400', 'data.batch_size': 32}
  small |= {'generator.width': 12, 'discriminator.width': 12}
  config = families.load_config('gan/images:digits', small)
  data = pipeline.load(config['data'])
  method, before, after, _ = trained(config, data)
  measured = config['evaluation'] | dict(num_samples=300)
  distances = [
    evaluate(method, params, data, measured, KEY, ['frechet']).measures['frechet'].value
    for params in (before, after)
  ]
  assert distances[1] < 0.4 * distances[0]
