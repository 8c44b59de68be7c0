"""The commands on music, as a person types them."""

import numpy as np
import pytest
from PIL import Image

from common.data import music, preparation
from common.data.builders import chorales
from common.domains.music import midi
from tests.common.data.scores import mxl, random_score, write_wheel
from tests.experiments.commands import refused, run

# They train; by default tests/experiments/test_train.py stands for all kinds of data.
pytestmark = pytest.mark.slow

TINY = (
  '--config=configs/autoregressive/chorales.py:apart',
  '--config.data.context=8',
  '--config.network.width=16',
  '--config.network.layers=1',
  '--config.network.heads=2',
  '--config.train.steps=4',
  '--config.train.steps_per_call=2',
  '--config.train.sample_every=4',
  '--config.train.evaluate_every=4',
  '--config.train.checkpoint_every=4',
  '--config.train.log_every=2',
)


@pytest.fixture(scope='module')
def trained(tmp_path_factory):
  """A folder with a run on chorales of random notes."""
  folder = tmp_path_factory.mktemp('music')
  wheel = folder / 'music21-10.5.1-py3-none-any.whl'
  scores = {f'{n}.mxl': mxl(random_score(n)) for n in range(20)}
  settings = dict(name='chorales', source=str(wheel), dir=str(folder / 'data'), context=8)
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(chorales.Chorales, 'sha256', write_wheel(wheel, scores))
    preparation.prepare(settings, network=False)
  run('train', *TINY, f'--config.data.dir={folder}/data', f'--workdir={folder}/run')
  return folder


@pytest.mark.slow
def test_training_writes_a_piano_roll_and_evaluation_names_its_unit(trained):
  with Image.open(trained / 'run' / 'samples' / '00000004.png') as roll:
    assert roll.width > 8 * 4 and roll.height > 4 * 12 * 4
  flags = (f'--workdir={trained}/run', '--num_samples=2', '--metrics=bits_per_dim,evaluations')
  printed = run('evaluate', *flags)
  assert 'a dimension is a voice in a sixteenth: ' in printed and 'nats per frame' in printed
  assert list((trained / 'run' / 'evaluations').glob('*.png'))


@pytest.mark.slow
def test_a_prompt_is_continued_into_midi_files_and_arrays(trained):
  pytest.importorskip('mido')
  begun = tuple((music.Note(pitch, 0, 4),) for pitch in (76, 72, 67, 60))
  midi.write(trained / 'begun.mid', begun)
  flags = (f'--workdir={trained}/run', f'--prompt={trained}/begun.mid', '--length=20', '--num=2')
  run('sample', *flags, f'--out={trained}/x.npy')
  frames = np.load(trained / 'x.npy')
  assert frames.shape == (2, 24, 4)
  run('sample', *flags, f'--out={trained}/x.mid')
  for name in ('x-1', 'x-2'):
    voices = midi.read(trained / f'{name}.mid')
    assert [voice[0][:2] for voice in voices] == [voice[0][:2] for voice in begun]


@pytest.mark.parametrize(
  ('flags', 'message'),
  [
    (['--out=x.txt'], '--out=x.txt: the name must end in .png, .npy or .mid'),
    (
      ['--task=complete'],
      '--task=complete: chorales holds music, which --prompt=FILE.mid continues',
    ),
    (['--prompt=nothing.mid'], 'nothing.mid cannot be read: No such file'),
  ],
)
def test_flags_that_do_not_suit_music_are_refused(trained, flags, message):
  assert message in refused('sample', f'--workdir={trained}/run', *flags)
