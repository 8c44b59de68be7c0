"""Music: continues the beginning of a piece, and shows piano rolls or writes MIDI files."""

import math
import pathlib
from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Integer, UInt8

from common.config import ConfigError
from common.data import music
from common.data.pipeline import Data
from common.data.spec import DataSpec
from common.domains.base import PICTURE_ROWS, Domain, SampleSettings, TrainedModel
from common.domains.display import Display
from common.domains.music import midi
from common.domains.music.piano_roll import legend, page, piano_rolls
from common.method import Request
from common.reporting import pictures

LENGTH = 256  # sixteenths to draw by default


class MusicDomain(Domain):
  """Windows of frames [context + 1, voices], a frame per sixteenth; the first is only given.

  Attributes:
    frames: what a frame is, for messages.
    in_front: frames at the beginning of a sample that are not part of the piece.
  """

  noun = 'music'
  usage = 'which --prompt=FILE.mid continues'
  flags: Mapping[str, str] = {
    'num': 'number of pieces (4; 1 for a .mid)',
    'prompt': 'a MIDI file that each piece continues, a track per voice',
    'length': 'sixteenths to draw (256)',
    'scale': 'size of a step in the picture (4)',
  }
  metrics = Domain.metrics | {'nats_per_position'}
  suffixes = ('.png', '.npy', '.mid')
  unit = 'frames'
  num = 4
  preview_num = 4
  picture_scale = 4
  frames = 'sixteenths'
  in_front = 1

  def request(self, spec, num, label=None, options=None):
    # A piece begins after a frame of rests, like every chorale of the training data.
    past = np.full((num, 1, spec.shape[1]), music.REST, np.int32)
    return Request(num, label, past=past, options=options or {})

  def as_images(self, spec, x):
    return self.rolls(spec, np.asarray(x)[:, self.in_front :]), 256

  def rolls(
    self, spec: DataSpec, x: Integer[np.ndarray, 'n frames voices']
  ) -> UInt8[np.ndarray, 'n pitches frames 3']:
    """Pictures of frames, a pixel for each."""
    return piano_rolls(x, spec.pitches)

  def legend(self, spec: DataSpec) -> str:
    """One line that explains `rolls`."""
    return legend(spec.pitches)

  def page(
    self, spec: DataSpec, x: Integer[np.ndarray, 'n frames voices'], scale: int
  ) -> UInt8[np.ndarray, 'rows columns 3']:
    """A picture of several pieces; `scale` is the size of a frame."""
    return page(self.rolls(spec, x), spec.pitches, scale, self.legend(spec))

  def preview_display(self, data, x, request):
    return Display(plot=self.page(data.spec, x[:, self.in_front :], self.picture_scale))

  def evaluation_display(self, spec, drawn):
    if drawn.x is None:
      return Display()
    shown = np.asarray(drawn.x)[:PICTURE_ROWS, self.in_front :]
    return Display(plot=self.page(spec, shown, self.picture_scale))

  def dimension_note(self, spec, bits):
    nats = bits * spec.shape[1] * math.log(2)
    return f'; a dimension is a voice in a sixteenth: {nats:.4g} nats per frame'

  def units(self, spec):
    return spec.shape[0] - 1  # the first of them is only given

  def describe(self, spec):
    steps, voices = spec.shape
    return f'windows of {steps - 1} + 1 frames of {voices} voices, {spec.levels} values each'

  def draw(self, trained, settings):
    """Music as in the data [num, frames, voices]."""
    return self.continue_piece(trained, settings, settings.flags.num or self.num)[0]

  def sample(self, trained, settings, out):
    spec, flags = trained.data.spec, settings.flags
    num = flags.num or (1 if out.suffix == '.mid' else self.num)
    x, seconds = self.continue_piece(trained, settings, num)
    names = [str(out)]
    if out.suffix == '.mid':
      names = write_midi([self.notes(spec, piece) for piece in x], out)
    elif out.suffix == '.npy':
      pictures.save_array(out, x)
    else:
      pictures.save_png(out, self.page(spec, x, flags.scale or self.picture_scale))
    return (
      f'{len(x)} pieces of {x.shape[1]} {self.frames} from step {trained.step} in '
      f'{", ".join(names)}, {seconds:.1f} s with compilation'
    )

  def continue_piece(
    self, trained: TrainedModel, settings: SampleSettings, num: int
  ) -> tuple[Integer[np.ndarray, 'num frames voices'], float]:
    """Draws frames of music; returns them with the seconds that it took.

    If a piece becomes longer than the model's context, the window slides: see `sampling.slide`.

    Args:
      trained: a model of music.
      settings: the flags `prompt` (a MIDI file, a track per voice; None: nothing is given) and
        `length`.
      num: number of pieces.

    Raises:
      ConfigError: for a prompt that has another number of voices, or pitches outside the range.
    """
    samples, seconds = trained.draw(self._piece(trained, settings, num), settings.seed)
    return np.asarray(samples.x)[:, self.in_front :], seconds

  def num_pixels(self, spec, flags):
    length = flags.length or LENGTH
    return length * spec.pitches.num_pitches * (flags.scale or self.picture_scale) ** 2

  def first_request(self, trained, settings):
    return self._piece(trained, settings, settings.flags.num or self.num)

  def _piece(self, trained: TrainedModel, settings: SampleSettings, num: int) -> Request:
    """The request of `continue_piece`."""
    spec, flags = trained.data.spec, settings.flags
    past = self.beginning(trained.data, num)
    if flags.prompt is not None:
      given = self.read_prompt(spec, pathlib.Path(flags.prompt))
      # What stands in front of a piece stands in front of a given one too.
      past = np.concatenate([past[:, : self.in_front], np.repeat(given[None], num, 0)], 1)
    total = past.shape[1] + (flags.length or LENGTH)
    options = {'length': total, 'slide': total > spec.shape[0], **settings.options}
    return Request(num, past=past, options=options)

  def beginning(self, data: Data, num: int) -> Integer[np.ndarray, 'num given voices']:
    """The given first frames of pieces without a prompt."""
    return self.request(data.spec, num).past

  def read_prompt(self, spec: DataSpec, path: pathlib.Path) -> Integer[np.ndarray, 'frames voices']:
    """The frames of a MIDI file."""
    voices, expected = midi.read(path), spec.shape[1]
    if len(voices) != expected:
      raise ConfigError(
        f'{path} has {len(voices)} tracks with notes; {spec.name} needs {expected}, one per voice'
      )
    return spec.pitches.encode(voices, music.num_steps(voices))

  def notes(
    self, spec: DataSpec, frames: Integer[np.ndarray, 'frames voices']
  ) -> tuple[tuple[music.Note, ...], ...]:
    """The notes of a piece, by voice."""
    return spec.pitches.decode(frames)


def write_midi(pieces: Sequence[Sequence[music.Voice]], out: pathlib.Path) -> list[str]:
  """Writes MIDI files, numbered if there are several; returns their names."""
  numbers = range(1, len(pieces) + 1)
  names = [out] if len(pieces) == 1 else [out.with_stem(f'{out.stem}-{i}') for i in numbers]
  for name, voices in zip(names, pieces, strict=True):
    midi.write(name, voices)
  return [str(name) for name in names]
