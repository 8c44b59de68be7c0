"""The commands on time series, as a person types them."""

import csv
import math

import numpy as np
import pytest
from PIL import Image

from common.evaluation.results import read_results
from common.reporting import writers
from tests.experiments.commands import refused, run

# They train; by default tests/experiments/test_train.py stands for all kinds of data.
pytestmark = pytest.mark.slow

TINY = (
  '--config=configs/autoregressive/series.py:file_counts',
  '--config.data.context=14',
  '--config.data.horizon=7',
  '--config.network.width=16',
  '--config.network.layers=1',
  '--config.network.heads=2',
  '--config.train.steps=8',
  '--config.train.steps_per_call=4',
  '--config.train.sample_every=8',
  '--config.train.evaluate_every=8',
  '--config.train.checkpoint_every=8',
  '--config.train.log_every=4',
  '--config.evaluation.num_samples=10',
)


def visitors() -> str:
  """Daily numbers of visitors of two shops, which are open longer on some days."""
  rng, lines = np.random.default_rng(0), ['unique_id,ds,y,open late']
  for shop, size in (('north', 20), ('south', 300)):
    for day in range(90):
      late = int(day % 7 == 3)
      mean = size * (1 + 0.5 * math.sin(2 * math.pi * day / 7) + 0.5 * late)
      lines.append(f'{shop},{np.datetime64("2024-01-01") + day},{rng.poisson(mean)},{late}')
  return '\n'.join(lines) + '\n'


@pytest.fixture(scope='module')
def trained(tmp_path_factory):
  folder = tmp_path_factory.mktemp('series')
  (folder / 'visitors.csv').write_text(visitors())
  run('train', *TINY, f'--config.data.source={folder}/visitors.csv', f'--workdir={folder}/run')
  return folder


def test_training_writes_a_plot_of_forecasts(trained):
  assert np.asarray(Image.open(trained / 'run' / 'samples' / '00000008.png')).ndim == 3
  assert math.isfinite(writers.read(trained / 'run', 'validation')[-1]['loss'])


@pytest.mark.slow
def test_sampling_plots_forecasts_and_tables_their_quantiles(trained):
  flags = (f'--workdir={trained}/run', '--draws=20')
  printed = run('sample', *flags, '--label=south', f'--out={trained}/south.png')
  assert '1 × 7 steps of the test split, 20 draws from step 8' in printed
  assert Image.open(trained / 'south.png').size[0] > 300
  run('sample', *flags, f'--out={trained}/all.csv')
  with open(trained / 'all.csv') as file:
    rows = list(csv.DictReader(file))
  assert len(rows) == 2 * 7 and {row['series'] for row in rows} == {'north', 'south'}
  for row in rows:
    levels = [float(row[f'q{q}']) for q in ('0.05', '0.25', '0.5', '0.75', '0.95')]
    assert levels == sorted(levels) and levels[0] >= 0
  actual = [line.split(',')[2] for line in visitors().splitlines()[-7:]]
  assert [row['truth'] for row in rows if row['series'] == 'south'] == actual
  days = [str(np.datetime64('2024-03-24') + day) for day in range(7)]
  assert [row['ds'] for row in rows] == 2 * days


@pytest.mark.slow
def test_forecasts_continue_beyond_the_end_of_the_file_and_of_another_one(trained):
  days = [f'{np.datetime64("2024-03-31") + day},{int(day % 7 == 5)}' for day in range(9)]
  (trained / 'late.csv').write_text('\n'.join(['ds,open late', *days]))
  flags = (f'--workdir={trained}/run', '--draws=20', f'--future={trained}/late.csv')
  printed = run('sample', *flags, '--horizon=9', '--all_draws', f'--out={trained}/ahead.csv')
  assert '2 × 9 steps beyond the end of the data, 20 draws from step 8' in printed
  assert 'steps 8 to 9 extrapolate: the model was trained on 7' in printed
  with open(trained / 'ahead.csv') as file:
    rows = list(csv.DictReader(file))
  assert [row['ds'] for row in rows[:9]] == [day.split(',')[0] for day in days]
  assert len(rows) == 2 * 9 and 'draw20' in rows[0] and 'truth' not in rows[0]
  # Another file: south goes on as before, west is new; its last day is the same.
  (trained / 'other.csv').write_text(visitors().replace('north', 'west'))
  printed = run('sample', *flags, f'--on={trained}/other.csv', f'--out={trained}/other.csv.csv')
  assert '; 1 series are not in the training data: forecast without a class' in printed
  with open(trained / 'other.csv.csv') as file:
    others = list(csv.DictReader(file))
  assert [row['series'] for row in others] == ['south'] * 7 + ['west'] * 7


@pytest.mark.slow
def test_evaluation_scores_forecasts(trained):
  metrics = '--metrics=crps,normalised_crps,smape,owa'
  printed = run('evaluate', f'--workdir={trained}/run', metrics, '--baselines=naive2')
  assert 'normalised CRPS: 0.' in printed and 'seasonal naive 0.' in printed
  *_, model, naive2 = printed.strip().splitlines()
  assert model.split()[0] == 'model' and naive2.split()[0] == 'naive2'
  assert naive2.split()[-1] == '1'  # relative to itself
  folder = trained / 'run' / 'evaluations'
  assert (folder / '8-baseline=naive2.json').is_file() and list(folder.glob('*.png'))
  members = ('--metrics=crps', f'--members={trained}/run,{trained}/run@8', '--baselines=naive')
  printed = run('evaluate', f'--workdir={trained}/run', *members)
  assert printed.strip().splitlines()[-2].split()[0] == 'ensemble'
  assert f'; with {trained}/run@8; with {trained}/run@8; ' in printed
  assert (folder / '8-baseline=naive.json').is_file()
  results = [result for result in read_results(folder) if 'members' in result.changed]
  assert results[0].changed['members'] == f'{trained}/run@8,{trained}/run@8'
  single = {result.step: result for result in read_results(folder) if not result.changed}[8]
  draws = int(single.measures['crps'].note.split(', ')[-1].split()[0])
  assert f', {3 * draws} draws of each' in printed


@pytest.mark.parametrize(
  ('flags', 'message'),
  [
    (['--out=forecasts.txt'], 'the name must end in .png, .npy or .csv'),
    (['--label=west'], "--label='west' is not a class of series; known: north, south"),
    (['--task=inpaint'], '--task=inpaint: series holds time series, whose windows are forecast'),
    (['--all_draws'], '--all_draws is for a .csv'),
    (['--horizon=9'], "the forecast of series 'north' needs 'open late' at 2024-03-31: give it by"),
    (['--on=nowhere.csv'], "cannot read --on='nowhere.csv': No such file or directory"),
  ],
)
def test_bad_flags_are_refused(trained, flags, message):
  assert message in refused('sample', f'--workdir={trained}/run', *flags)


@pytest.mark.parametrize(
  ('flags', 'message'),
  [
    (['--on=m3'], '--members are evaluated as they were trained: remove --ema and --on'),
    (['--metrics=bits_per_dim'], '--members are for metrics of forecasts, not for bits_per_dim'),
    (['--metrics=crps'], '--members=nowhere: nowhere holds no run'),
  ],
)
def test_members_that_make_no_ensemble_are_refused(trained, flags, message):
  assert message in refused('evaluate', f'--workdir={trained}/run', '--members=nowhere', *flags)


def test_a_bad_file_is_refused_in_one_line(trained):
  (trained / 'gap.csv').write_text(visitors().replace('south,2024-02-01', 'south,2024-02-02'))
  printed = refused('train', *TINY, f'--config.data.source={trained}/gap.csv', '--workdir=none')
  assert "in series 'south' '2024-02-02' comes after '2024-02-02'" in printed
