"""Chorales as windows of frames: each chorale is in one split, each frame is predicted once."""

import numpy as np
import pytest

from common.config import ConfigError
from common.data import music, musicxml, pipeline, preparation
from common.data.builders import chorales, downloads
from tests.common.data.scores import mxl, note, random_score, score, write_wheel

SCORES = {f'bwv{n}.mxl': mxl(random_score(n)) for n in range(30)}
SCORES['duet.mxl'] = mxl(score(note(), note()))  # two parts: not a chorale


@pytest.fixture
def wheel(tmp_path, monkeypatch):
  """A package with small scores, in place of the published one."""
  path = tmp_path / 'music21-10.5.1-py3-none-any.whl'
  monkeypatch.setattr(chorales.Chorales, 'sha256', write_wheel(path, SCORES))
  return path


def windows(data, split):
  source = data.splits[split]
  return source.gather(np.arange(len(source)))['x']


def test_chorales_come_from_the_wheel_in_windows(tmp_path, wheel):
  settings = {'name': 'chorales', 'dir': str(tmp_path / 'data'), 'context': 16}
  with pytest.raises(ConfigError, match='--dataset=chorales --context=16 --data_dir='):
    pipeline.load(settings)
  data = pipeline.load(settings | {'source': str(wheel)})
  spec = data.spec
  assert (spec.domain, spec.shape, spec.levels) == ('music', (17, 4), spec.pitches.levels)
  assert spec.batch_struct(2)['x'].dtype == windows(data, 'train').dtype == np.uint8

  pieces = {}
  for name, content in SCORES.items():
    (tmp_path / name).write_bytes(content)
    voices = musicxml.read_score(tmp_path / name)
    if len(voices) == 4:
      pieces[name] = spec.pitches.encode(voices, music.num_steps(voices))
  assert len(pieces) == 30
  found = []
  for split in data.splits:  # TFDS stores windows in another order
    rows = {row[0].tobytes() + row[1:].tobytes(): row for row in windows(data, split)}
    text = b''.join(rows)
    names = [n for n, piece in pieces.items() if piece[:16].tobytes() in text]
    found += names
  assert len(found) == len(set(found))


def test_windows_predict_each_frame_once():
  pieces = [np.full((n, 4), n, np.uint8) for n in (5, 7)]
  joined = chorales.join(pieces)
  assert joined[:, 0].tolist() == [0, *[5] * 5, 0, *[7] * 7, 0]
  made = chorales.cut_windows(joined, 4, 'train')
  assert made.shape == (3, 5, 4)
  np.testing.assert_array_equal(made[1:, 0], made[:-1, -1])
  np.testing.assert_array_equal(made[:, 1:].reshape(-1, 4), joined[1:13])


def test_chorales_are_downloaded_by_pip_or_one_line_names_the_command(tmp_path, wheel, monkeypatch):
  settings = {'name': 'chorales', 'context': 16, 'dir': str(tmp_path / 'data')}
  package = chorales.Chorales.package
  assert package.fetch == downloads.pip_download('music21==10.5.1')
  monkeypatch.setattr(chorales.Chorales, 'package', package._replace(fetch=('false',)))
  with pytest.raises(
    ConfigError, match=r'cannot get chorales: false failed .*; download it with `pip'
  ):
    preparation.prepare(settings, network=True)
  fetch = ('cp', str(wheel), '.')
  monkeypatch.setattr(chorales.Chorales, 'package', package._replace(fetch=fetch))
  preparation.prepare(settings, network=True)
  assert pipeline.load(settings).spec.num_train


def test_other_scores_are_refused(tmp_path, wheel, monkeypatch):
  settings = {'name': 'chorales', 'dir': str(tmp_path), 'source': str(wheel)}
  with pytest.raises(
    ConfigError, match=r'must have at least 4097 frames for data.context=4096, got'
  ):
    pipeline.load(settings | {'context': 4096})
  monkeypatch.setattr(chorales.Chorales, 'sha256', '0' * 64)
  with pytest.raises(ConfigError, match=r'must hold the 408 scores \(\*.mxl\) .* got 31 with'):
    pipeline.load(settings)
  (tmp_path / 'bad.mxl').write_bytes(b'broken')
  with pytest.raises(ConfigError, match=r'cannot read .*bad.mxl as a MusicXML score') as error:
    chorales.read_pieces([tmp_path / 'bad.mxl'])
  assert '\n' not in str(error.value)
  (tmp_path / 'duet.mxl').write_bytes(SCORES['duet.mxl'])
  with pytest.raises(ConfigError, match='none of the 1 scores has 4 parts'):
    chorales.read_pieces([tmp_path / 'duet.mxl'])


@pytest.mark.slow
def test_the_published_chorales(tmp_path):
  """Fetches the package, so it needs a network."""
  try:
    with downloads.fetch_package(chorales.Chorales.package):
      pass
  except downloads.Unavailable as reason:
    pytest.skip(str(reason))
  settings = {'name': 'chorales', 'dir': str(tmp_path)}
  preparation.prepare(settings, network=True)
  spec, splits, *_ = pipeline.load(settings)
  assert (spec.shape, spec.pitches, spec.levels) == ((65, 4), music.Pitches(36, 81), 93)
  assert {k: len(v) for k, v in splits.items()} == {'train': 1009, 'validation': 107, 'test': 127}
