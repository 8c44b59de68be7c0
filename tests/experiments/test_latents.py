"""A first stage and models of its latents, as a person trains, samples and evaluates them."""

import json
import shutil

import numpy as np
import pytest

from common.baselines.vae import first_stage
from common.config import ConfigError
from common.data import pipeline
from tests.common.baselines.vae.test_weights import SMALL, published
from tests.experiments.commands import TINY, TINY_DIFFUSION, refused, run

NETWORK = (
  '--config.network.name=transformer',
  '--config.network.patch=2',
  '--config.network.width=16',
  '--config.network.depth=1',
  '--config.network.heads=2',
)
SHORT = (
  '--config.data.batch_size=16',
  '--config.train.steps=8',
  '--config.train.steps_per_call=2',
  '--config.train.evaluate_every=0',
  '--config.train.sample_every=8',
)
VAE = ('--config=configs/vae/images.py:digits_first_stage', *NETWORK, *SHORT)
VQ = ('--config=configs/vae/images.py:digits_codes', *NETWORK, *SHORT)
NUMBERS = ('--config.prediction.sigma_data=1.0', '--config.sampling.threshold.name=none')


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
  """Runs: a VAE, a VQ-VAE, diffusion over latents and autoregression over codes."""
  folder = tmp_path_factory.mktemp('latents')
  run('train', *VAE, f'--workdir={folder}/vae')
  run('train', *VQ, f'--workdir={folder}/vq')
  stage = '--config.data.first_stage'
  for name, flags in (('diffusion', latent_diffusion('vae')), ('codes', codes('vq'))):
    flags = [flag.replace('STAGE', f'{stage}={folder}') for flag in flags]
    run('train', *flags, f'--workdir={folder}/{name}')
  return folder


def latent_diffusion(stage):
  return (*TINY_DIFFUSION, *NUMBERS, *SHORT[1:], f'STAGE/{stage}')


def codes(stage):
  return (*TINY, '--config.ordering.size=1', *SHORT[1:], f'STAGE/{stage}')


@pytest.mark.slow
def test_latents_become_images_in_samples_and_evaluations(folder):
  for name, evaluations in (('diffusion', 36), ('codes', 17)):
    drawn = run('sample', f'--workdir={folder}/{name}', '--num=6', f'--out={folder}/x.npy')
    assert f': {evaluations} network evaluations each' in drawn
    x = np.load(folder / 'x.npy')
    assert x.shape == (6, 8, 8, 1) and x.dtype == np.uint8 and x.max() <= 16
    metrics = '--metrics=frechet,agreement,evaluations,sampling_flops'
    printed = run('evaluate', f'--workdir={folder}/{name}', '--num_samples=20', metrics)
    assert f'network evaluations per sample: {evaluations}' in printed
    assert 'and those of decoding' in printed
  bits = run('evaluate', f'--workdir={folder}/codes', '--metrics=bits_per_dim')
  assert 'upper bound for images by their one code' in bits
  run('sample', f'--workdir={folder}/diffusion', '--task=sdedit', f'--out={folder}/edit.png')
  run('sample', f'--workdir={folder}/vae', '--task=interpolate', f'--out={folder}/vae.png')


@pytest.mark.peers
def test_diffusion_over_the_latents_of_published_weights(tmp_path):
  published('AutoencoderKL', tmp_path / 'weights', **SMALL, in_channels=1, out_channels=1)
  *flags, _ = latent_diffusion('')
  stage = f'--config.data.first_stage={tmp_path}/weights'
  run('train', *flags, stage, f'--workdir={tmp_path}/run')
  run('sample', f'--workdir={tmp_path}/run', '--num=6', f'--out={tmp_path}/x.npy')
  x = np.load(tmp_path / 'x.npy')
  assert x.shape == (6, 8, 8, 1) and x.dtype == np.uint8 and x.max() <= 16
  printed = run('evaluate', f'--workdir={tmp_path}/run', '--num_samples=20', '--metrics=frechet')
  assert 'FD(mlp, n=20)' in printed


@pytest.mark.slow
def test_the_bound_of_a_vae_says_how_it_was_estimated(folder):
  printed = run('evaluate', f'--workdir={folder}/vae', '--metrics=bits_per_dim')
  assert 'upper bound of 16 importance samples' in printed


@pytest.mark.slow
def test_a_first_stage_whose_weights_have_changed_is_refused(folder):
  known = json.loads((folder / 'diffusion' / 'data.json').read_text())['first_stage']
  longer = [flag for flag in VAE if 'train.steps=' not in flag]
  run('train', *longer, '--config.train.steps=10', '--extend', f'--workdir={folder}/vae')
  message = refused('sample', f'--workdir={folder}/diffusion', f'--out={folder}/y.png')
  assert f'one with digest {known}' in message
  flags = [
    f.replace('STAGE', f'--config.data.first_stage={folder}') for f in latent_diffusion('vae')
  ]
  assert f'digest {known}' in refused('train', *flags, f'--workdir={folder}/diffusion')
  # The step that the run was trained with is still there.
  config = json.loads((folder / 'diffusion' / 'config.json').read_text())
  config['data']['first_stage'] += '@8'
  (folder / 'diffusion' / 'config.json').write_text(json.dumps(config))
  run('sample', f'--workdir={folder}/diffusion', f'--out={folder}/y.png')


@pytest.mark.slow
def test_first_stages_that_do_not_suit_are_refused(folder):
  data = pipeline.load(json.loads((folder / 'vae' / 'config.json').read_text())['data'])
  print_ = pipeline.fingerprint(data)
  for path, fingerprint, message in (
    ('vae', 'abc', 'was trained on digits with digest'),
    ('diffusion', print_, "must be a run of the family 'vae'"),
    ('nowhere', print_, 'must be the WORKDIR of a run of the family vae'),
    ('vae@first', print_, "the step must be 'last', 'best' or a number"),
  ):
    with pytest.raises(ConfigError, match=message):
      first_stage.read(f'{folder}/{path}', data.spec, fingerprint)
  (folder / 'begun').mkdir()
  for name in ('config.json', 'data.json'):
    (folder / 'begun' / name).write_text((folder / 'vae' / name).read_text())
  with pytest.raises(ConfigError, match='has no checkpoint yet'):
    first_stage.read(f'{folder}/begun', data.spec, print_)
  message = refused('evaluate', f'--workdir={folder}/diffusion', '--on=mnist')
  assert 'models latents, which belong to its own data' in message
  over_codes = ('--config=configs/gan/images.py:digits', f'--config.data.first_stage={folder}/vq')
  assert 'are indices' in refused('train', *over_codes, f'--workdir={folder}/none')
  clipped = (*TINY_DIFFUSION, f'--config.data.first_stage={folder}/vae')
  assert 'not bounded by 1' in refused('train', *clipped, f'--workdir={folder}/none')
  noised = (*TINY_DIFFUSION, *NUMBERS, f'--config.data.first_stage={folder}/vq')
  assert 'codes, which have no order' in refused('train', *noised, f'--workdir={folder}/none')


@pytest.mark.slow
def test_a_run_that_forgot_its_first_stage_is_refused(folder, tmp_path):
  shutil.copytree(folder / 'codes', tmp_path / 'codes')
  (tmp_path / 'codes' / 'data.json').unlink()
  message = f'{tmp_path}/codes/data.json must have the digest of the first stage, but is missing'
  assert message in refused('sample', f'--workdir={tmp_path}/codes', f'--out={tmp_path}/x.npy')
  flags = [f.replace('STAGE', f'--config.data.first_stage={folder}') for f in codes('vq')]
  assert message in refused('train', *flags, f'--workdir={tmp_path}/codes')


@pytest.mark.slow
def test_a_first_stage_that_has_not_finished_is_reported(folder, tmp_path, caplog):
  shutil.copytree(folder / 'vq', tmp_path / 'vq')
  config = json.loads((tmp_path / 'vq' / 'config.json').read_text())
  data = pipeline.load(config['data'])
  for steps, warnings in (('8', 0), ('80', 1)):
    (tmp_path / 'vq' / 'config.json').write_text(
      json.dumps(config | {'train': config['train'] | {'steps': steps}})
    )
    with caplog.at_level('WARNING', 'absl'):
      caplog.clear()
      first_stage.read(f'{tmp_path}/vq', data.spec, pipeline.fingerprint(data))
      first_stage.read(f'{tmp_path}/vq@8', data.spec, pipeline.fingerprint(data))
    found = [r.getMessage() for r in caplog.records if 'has not finished' in r.getMessage()]
    assert len(found) == warnings and all('its last step is 8 of 80.' in said for said in found)


@pytest.mark.slow
def test_runs_may_move_together_with_their_first_stage(folder, tmp_path):
  for name in ('vq', 'codes'):
    shutil.copytree(folder / name, tmp_path / name)
    (folder / name).rename(folder / f'{name}_away')
  run('sample', f'--workdir={tmp_path}/codes', '--num=2', f'--out={tmp_path}/x.npy')
  (tmp_path / 'vq').rename(tmp_path / 'elsewhere')
  flags = [
    f.replace('STAGE/vq', f'--config.data.first_stage={tmp_path}/elsewhere') for f in codes('vq')
  ]
  run('train', *flags, f'--workdir={tmp_path}/codes')
  run('sample', f'--workdir={tmp_path}/codes', '--num=2', f'--out={tmp_path}/x.npy')
