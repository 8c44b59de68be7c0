"""A run from Python: docs/python.md runs as it stands, and draws the samples of the command."""

import contextlib
import io
import pathlib
import re

import numpy as np
import pytest

from experiments import runs
from tests.experiments.commands import run as command
from tests.experiments.startup import tiny

# They train; by default tests/experiments/test_train.py stands for all kinds of data.
pytestmark = pytest.mark.slow

PAGE = pathlib.Path(__file__).parents[2] / 'docs' / 'python.md'
BLOCK = re.compile(r'^```(\w*)\n(.*?)^```', re.M | re.S)


@pytest.fixture(scope='module')
def trained(tmp_path_factory):
  """A folder with finished runs in runs/digits and runs/classifier."""
  folder = tmp_path_factory.mktemp('python')
  short = dict(train__steps='4', train__evaluate_every='4', train__checkpoint_every='4')
  assert runs.train(tiny.config('diffusion', **short), folder / 'runs' / 'digits')
  assert runs.train(tiny.config('classifier', **short), folder / 'runs' / 'classifier')
  return folder


def without_numbers(text):
  """The text without what depends on the training: measured values and the step."""
  return re.sub(r'\d+\.\d+|step \d+', '#', text)


@pytest.mark.slow
def test_the_page_prints_what_it_shows(trained, monkeypatch):
  monkeypatch.chdir(trained)
  namespace, blocks = {}, BLOCK.findall(PAGE.read_text('utf-8'))
  assert len(blocks) == 8
  for (language, code), (other, output) in zip(blocks[::2], blocks[1::2], strict=True):
    assert (language, other) == ('python', '')
    with contextlib.redirect_stdout(io.StringIO()) as printed:
      exec(code, namespace)
    assert without_numbers(printed.getvalue()) == without_numbers(output)


def test_the_same_seed_draws_the_samples_of_the_command(trained, tmp_path):
  workdir, out = trained / 'runs' / 'digits', tmp_path / 'x.npy'
  flags = ('--num=4', '--label=3', '--seed=5', '--options=steps=2')
  command('sample', f'--workdir={workdir}', *flags, f'--out={out}')
  drawn = runs.load(workdir).sample(seed=5, num=4, label=3, steps=2)
  # The command is compiled with other optimisations: a rounding may differ.
  assert np.abs(drawn.astype(int) - np.load(out)).max() <= 1


@pytest.mark.parametrize(
  ('settings', 'message'),
  [
    (dict(num=0), 'num must be a whole number in [1, 1000000], got 0'),
    (dict(scale=65), 'scale must be a whole number in [1, 64], got 65'),
    (dict(prompt='a'), '--prompt=a: digits holds images'),
    (dict(stepz=3), "unknown sampling option 'stepz'; did you mean 'steps'"),
    (dict(label=12), "--label='12' is not a class of digits"),
  ],
)
def test_a_wrong_setting_of_samples_is_refused(trained, settings, message):
  with pytest.raises(ValueError, match=re.escape(message)):
    runs.load(trained / 'runs' / 'digits').sample(**settings)


def test_examples_that_are_not_like_the_data_are_refused(trained):
  loaded = runs.load(trained / 'runs' / 'digits')
  batch = loaded.data.splits['test'].gather(np.arange(2))
  for x, label, message in [
    (batch['x'][..., 0], batch['label'], 'must have the shape'),
    (batch['x'] / 17, batch['label'], r'integers in \[0, 17\)'),
    (batch['x'], None, 'the class of each of the 2 examples'),
  ]:
    with pytest.raises(ValueError, match=message):
      loaded.bits_per_dim(x, label)
