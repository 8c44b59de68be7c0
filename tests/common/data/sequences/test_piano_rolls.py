"""Piano rolls in windows: every frame after the first of a piece counts once."""

import numpy as np
import pytest

from common.config import ConfigError
from common.data import pipeline, preparation
from common.data.builders.sequences import piano_rolls
from tests.common.data.rolls import LENGTHS, mat_file, random_pieces, write_collection

# Pieces, frames and frames that count of the test split, and the nats per frame of independent
# keys as frequent as in training.
PUBLISHED = {
  'jsb': ((229, 76, 77), 4725, 4648, 11.09),
  'nottingham': ((694, 173, 170), 44_463, 44_293, 10.26),
  'musedata': ((524, 135, 124), 64_339, 64_215, 11.51),
  'piano_midi': ((87, 12, 25), 19_036, 19_011, 11.05),
}


def examples(data, split):
  source = data.splits[split]
  return source.gather(np.arange(len(source)))


def as_rows(frames):
  return sorted(frame.tobytes() for frame in frames)


@pytest.mark.parametrize(('context', 'overlap'), [(30, 1), (6, 1), (6, 4), (6, 6)])
def test_every_frame_counts_once_after_the_frames_before_it(
  tmp_path, monkeypatch, context, overlap
):
  pieces = random_pieces()
  settings = write_collection(monkeypatch, tmp_path, pieces)
  data = pipeline.load(settings | {'context': context, 'overlap': overlap})
  spec = data.spec
  assert (spec.domain, spec.shape, spec.levels) == ('rolls', (context + 1, 88), 2)
  assert spec.counted and (spec.pitches.lowest, spec.pitches.highest) == (21, 108)
  for split, source in pieces.items():
    found = examples(data, split)
    x, counted = found['x'], found['counted']
    assert counted.shape == x.shape[:2] and not counted[:, 0].any() and counted.any(1).all()
    assert as_rows(x[counted]) == as_rows(np.concatenate([piece[1:] for piece in source]))
    # Before each counted frame: as many frames as the overlap, or all from the beginning.
    joined = {piece[:t].tobytes()[-overlap * 88 :] for piece in source for t in range(len(piece))}
    for window, at in np.argwhere(counted):
      assert x[window, :at].tobytes()[-overlap * 88 :] in joined
    assert not x[:, 1:][np.cumsum(counted[:, ::-1], 1)[:, ::-1][:, 1:] == 0].any()  # padding


def test_other_files_and_settings_are_refused_in_one_line(tmp_path, monkeypatch):
  pieces = random_pieces()
  settings = write_collection(monkeypatch, tmp_path, pieces) | {'context': 6, 'overlap': 1}
  for changed, message in (
    ({'collection': ''}, 'needs data.collection, one of jsb, nottingham, musedata, piano_midi'),
    ({'collection': 'jbs'}, "unknown data.collection 'jbs'; did you mean 'jsb'"),
    ({'overlap': 7}, r'data.overlap must be in \[1, 6\], the frames of data.context, got 7'),
    ({'collection': 'nottingham'}, r'has no Nottingham.mat'),
    ({'source': ''}, r'prepare_data --dataset=piano_rolls .*--collection=jsb'),
  ):
    with pytest.raises(ConfigError, match=message) as error:
      pipeline.load(settings | changed)
    assert '\n' not in str(error.value)
  (tmp_path / 'JSB_Chorales.mat').write_bytes(b'other')
  with pytest.raises(ConfigError, match=r'is not the published JSB_Chorales.mat .* must be'):
    pipeline.load(settings)


def test_broken_files_are_refused_in_one_line():
  pieces = random_pieces()
  wide = pieces | {'test': [pieces['test'][0], np.zeros((3, 87))]}
  loud = pieces | {'validation': [2 * pieces['validation'][0]]}
  short = pieces | {'train': [pieces['train'][0][:1]]}
  for data, message in (
    (b'nothing', 'a.mat cannot be read as a MATLAB file'),
    (
      mat_file(pieces, {'train': 'traindata', 'test': 'testdata'}),
      'a.mat must hold traindata, validdata, testdata, and lacks validdata',
    ),
    (mat_file(wide), r'a.mat: testdata, piece 2 must have the shape \(2 or more, 88\), got'),
    (mat_file(short), r'traindata, piece 1 must have the shape .* got \(1, 88\)'),
    (mat_file(loud), 'validdata, piece 1 must hold only 0 and 1, got values up to 2'),
  ):
    with pytest.raises(ConfigError, match=message) as error:
      piano_rolls.read_pieces(data, 'a.mat')
    assert '\n' not in str(error.value)
  for split, found in piano_rolls.read_pieces(mat_file(pieces), 'a.mat').items():
    assert tuple(map(len, found)) == LENGTHS[split]


@pytest.mark.slow
@pytest.mark.parametrize('collection', PUBLISHED)
def test_the_published_pieces(collection, tmp_path):
  """Fetches the files, so it needs a network."""
  settings = dict(name='piano_rolls', collection=collection, dir=str(tmp_path), context=200)
  try:
    preparation.prepare(settings, network=True)
  except ConfigError as reason:
    pytest.skip(str(reason))
  builder = piano_rolls.PianoRolls(settings, network=True, data_dir=tmp_path / 'again')
  numbers, frames, counted, nats = PUBLISHED[collection]
  assert tuple(map(len, builder.pieces.values())) == numbers
  assert sum(map(len, builder.pieces['test'])) == frames
  test = examples(pipeline.load(settings), 'test')
  assert test['counted'].sum() == counted
  share = np.clip(np.concatenate(builder.pieces['train']).mean(0), 1e-6, 1 - 1e-6)
  x = test['x'][test['counted']]
  found = -(x * np.log(share) + (1 - x) * np.log1p(-share)).sum(-1).mean()
  assert found == pytest.approx(nats, abs=0.005)
