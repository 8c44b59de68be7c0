"""Bach's four-part chorales as windows of frames: the state of each voice in every sixteenth."""

import functools
import hashlib
import operator
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from common.config import ConfigError
from common.data import music, musicxml
from common.data.builders import base, downloads
from common.data.builders.text import context_length, cut_windows

VOICES = 4

Piece = tuple[tuple[music.Note, ...], ...]  # the notes of each voice


class Chorales(base.Builder, skip_registration=True):
  """The four-part scores in the PyPI package `music21` 10.5.1, which is never imported.

  A split is a sequence of chorales, with a frame of rests before the first and after each. It is
  cut into windows of `context` + 1 frames. The first frame of a window is given: it is the last
  frame of the window before, so every frame is predicted once. The hash of a chorale assigns it as
  a whole to one split.
  """

  name = 'chorales'
  flags = ('source', 'context', 'shift')
  domain = 'music'
  holds_streams = True
  # The hash of the names and contents of all scores.
  sha256 = '7af09fc0d44723d07c438031936d74da8003e65f814163f41f4fb8ecf23a4db7'
  num_scores = 408  # of which 364 have four parts
  package = downloads.Package(
    command='pip download --no-deps music21==10.5.1',
    fetch=downloads.pip_download('music21==10.5.1'),
    archive='music21-10.5.1-*.whl',
    unpack=downloads.UNZIP,
    folder='music21/corpus/bach',
  )

  @classmethod
  def variant(cls, settings: Mapping[str, Any]) -> str:
    return f'frames-{context_length(settings)}'

  def read(self) -> base.Contents:
    context, pieces = context_length(self.settings), self.pieces
    # One pitch range for all splits, like the vocabulary of a text.
    frames = [self.pitches.encode(piece, music.num_steps(piece)) for piece in pieces]
    splits = base.hash_splits((base.digest(piece.tobytes()) for piece in frames), self.name)
    windows = {
      split: cut_windows(join([frames[i] for i in chosen]), context, split, 'frames')
      for split, chosen in splits.items()
    }
    num_steps = sum(map(len, frames))
    return base.Contents(
      shape=(context + 1, VOICES),
      levels=self.pitches.levels,
      class_names=(),
      splits=base.window_splits(windows),
      notes=(f'{len(pieces)} chorales, {num_steps:,} steps',),
      pitches=(self.pitches.lowest, self.pitches.highest),
    )

  @functools.cached_property
  def pieces(self) -> tuple[Piece, ...]:
    """The chorales, sorted by file name."""
    with downloads.find_package(self.name, self.package, self.settings, self.network) as folder:
      paths = sorted(folder.rglob('*.mxl'), key=operator.attrgetter('name'))
      found = hashlib.sha256(b''.join(path.name.encode() + path.read_bytes() for path in paths))
      if found.hexdigest() != self.sha256:
        raise ConfigError(
          f'{folder} must hold the {self.num_scores} scores (*.mxl) of music21 10.5.1 with sha256 '
          f'{self.sha256}, got {len(paths)} with {found.hexdigest()}'
        )
      return read_pieces(paths)

  @functools.cached_property
  def pitches(self) -> music.Pitches:
    """The pitch range of all chorales."""
    pitches = [note.pitch for piece in self.pieces for voice in piece for note in voice]
    return music.Pitches(min(pitches), max(pitches))


def read_pieces(paths: Sequence[pathlib.Path]) -> tuple[Piece, ...]:
  """The scores that have four parts, all with notes.

  Raises:
    ConfigError: for a file that is not a score, or if no score has four parts.
  """
  scores = (musicxml.read_score(path) for path in paths)
  pieces = tuple(score for score in scores if len(score) == VOICES and all(score))
  if not pieces:
    raise ConfigError(f'none of the {len(paths)} scores has {VOICES} parts with notes')
  return pieces


def join(pieces: Sequence[np.ndarray]) -> np.ndarray:
  """One stream of frames [steps, voices]: a rest, then each piece followed by a rest."""
  rests = np.full((1, VOICES), music.REST, np.uint8)
  return np.concatenate([rests, *(part for piece in pieces for part in (piece, rests))])
