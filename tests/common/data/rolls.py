"""Small piano rolls for tests, in the files of published ones."""

import hashlib
import io

import numpy as np
import scipy.io

from common.data.builders.sequences import piano_rolls

LENGTHS = {'train': (3, 9, 14, 5), 'validation': (2, 11), 'test': (23, 4)}


def random_pieces(seed=0, lengths=LENGTHS):
  """Pieces of each split; low keys sound more often."""
  rng = np.random.default_rng(seed)
  share = np.linspace(0.4, 0.01, 88)
  return {
    split: [(rng.random((length, 88)) < share).astype(np.uint8) for length in each]
    for split, each in lengths.items()
  }


def mat_file(pieces, names=piano_rolls.PARTS) -> bytes:
  """A file of pieces, under the names of their parts."""
  arrays = {}
  for split, name in names.items():
    cells = np.empty((1, len(pieces[split])), object)
    for i, piece in enumerate(pieces[split]):
      cells[0, i] = piece
    arrays[name] = cells
  buffer = io.BytesIO()
  scipy.io.savemat(buffer, arrays)
  return buffer.getvalue()


def write_collection(monkeypatch, folder, pieces) -> dict[str, str]:
  """Writes a file in place of the chorales; returns the settings of its data."""
  data = mat_file(pieces)
  (folder / 'JSB_Chorales.mat').write_bytes(data)
  collection = piano_rolls.Collection('JSB_Chorales.mat', hashlib.sha256(data).hexdigest())
  collections = dict(piano_rolls.PianoRolls.collections) | {'jsb': collection}
  monkeypatch.setattr(piano_rolls.PianoRolls, 'collections', collections)
  settings = dict(name='piano_rolls', collection='jsb', source=str(folder))
  return settings | {'dir': str(folder / 'data')}
