"""Music: continues the beginning of a piece, and shows piano rolls or writes MIDI files."""

import math
import pathlib
from collections.abc import Mapping

import numpy as np
from jaxtyping import Integer

from common.config import ConfigError
from common.data import music
from common.data.spec import DataSpec
from common.domains.base import PICTURE_ROWS, Domain, SampleSettings, TrainedModel
from common.domains.display import Display
from common.domains.music import midi
from common.domains.music.piano_roll import page, piano_rolls
from common.method import Request
from common.reporting import pictures

LENGTH = 256  # sixteenths to draw by default


class MusicDomain(Domain):
  """Windows of frames [context + 1, voices], a frame per sixteenth; the first is only given."""

  noun = 'music'
  usage = 'which --prompt=FILE.mid continues'
  flags: Mapping[str, str] = {
    'num': 'number of pieces (4; 1 for a .mid)',
    'prompt': 'a MIDI file that each piece continues, a track per voice',
    'length': 'sixteenths to draw (256)',
    'scale': 'size of a step in the picture (4)',
  }
  suffixes = ('.png', '.npy', '.mid')
  unit = 'frames'
  num = 4
  preview_num = 4
  picture_scale = 4

  def request(self, spec, num, label=None, options=None):
    # A piece begins after a frame of rests, like every chorale of the training data.
    past = np.full((num, 1, spec.shape[1]), music.REST, np.int32)
    return Request(num, label, past=past, options=options or {})

  def as_images(self, spec, x):
    # The first frame was given: leave it out.
    return piano_rolls(np.asarray(x)[:, 1:], spec.pitches), 256

  def preview_display(self, data, x, request):
    return Display(plot=page(x[:, 1:], data.spec.pitches, self.picture_scale))

  def evaluation_display(self, spec, drawn):
    if drawn.x is None:
      return Display()
    shown = np.asarray(drawn.x)[:PICTURE_ROWS, 1:]
    return Display(plot=page(shown, spec.pitches, self.picture_scale))

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
      names = write_midi(spec, x, out)
    elif out.suffix == '.npy':
      pictures.save_array(out, x)
    else:
      pictures.save_png(out, page(x, spec.pitches, flags.scale or self.picture_scale))
    return (
      f'{len(x)} pieces of {x.shape[1]} sixteenths from step {trained.step} in '
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
    return np.asarray(samples.x)[:, 1:], seconds  # without the rests in front

  def num_pixels(self, spec, flags):
    length = flags.length or LENGTH
    return length * spec.pitches.num_pitches * (flags.scale or self.picture_scale) ** 2

  def first_request(self, trained, settings):
    return self._piece(trained, settings, settings.flags.num or self.num)

  def _piece(self, trained: TrainedModel, settings: SampleSettings, num: int) -> Request:
    """The request of `continue_piece`."""
    spec, flags = trained.data.spec, settings.flags
    past = self.request(spec, num).past
    if flags.prompt is not None:
      given = read_prompt(spec, pathlib.Path(flags.prompt))
      past = np.concatenate([past, np.repeat(given[None], num, 0)], 1)
    total = past.shape[1] + (flags.length or LENGTH)
    options = {'length': total, 'slide': total > spec.shape[0], **settings.options}
    return Request(num, past=past, options=options)


def read_prompt(spec: DataSpec, path: pathlib.Path) -> Integer[np.ndarray, 'frames voices']:
  """The frames of a MIDI file."""
  voices, expected = midi.read(path), spec.shape[1]
  if len(voices) != expected:
    raise ConfigError(
      f'{path} has {len(voices)} tracks with notes; {spec.name} needs {expected}, one per voice'
    )
  return spec.pitches.encode(voices, music.num_steps(voices))


def write_midi(
  spec: DataSpec, x: Integer[np.ndarray, 'num frames voices'], out: pathlib.Path
) -> list[str]:
  """Writes MIDI files, numbered if there are several; returns their names."""
  names = [out] if len(x) == 1 else [out.with_stem(f'{out.stem}-{i + 1}') for i in range(len(x))]
  for name, frames in zip(names, x, strict=True):
    midi.write(name, spec.pitches.decode(frames))
  return [str(name) for name in names]
