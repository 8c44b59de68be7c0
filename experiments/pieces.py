"""Music from a trained model: the beginning of a piece continued, beyond the context if need be."""

import pathlib
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from jaxtyping import Integer

from common.config import ConfigError
from common.data import music
from common.domains import midi, showing
from experiments import runs


def continued(
  run: runs.Run,
  prompt: str | None,
  *,
  num: int,
  length: int,
  seed: int,
  options: Mapping[str, Any],
) -> Integer[np.ndarray, 'num frames voices']:
  """Draws frames of music; what does not fit the context is drawn as `sampling.slide` does it.

  Args:
    run: a model of music.
    prompt: a MIDI file that they begin with, a track per voice; None: nothing.
    num: how many.
    length: frames to draw for each.
    seed: of all randomness.
    options: sampler settings.

  Raises:
    ConfigError: for a prompt that is no music of so many voices, or of other pitches.
  """
  spec = run.data.spec
  request = showing.request(spec, num)
  past = request.past
  if prompt is not None:
    begun = read_prompt(spec, pathlib.Path(prompt))
    past = np.concatenate([past, np.repeat(begun[None], num, 0)], 1)
  total = past.shape[1] + length
  asked = {'length': total, 'slide': total > spec.shape[0]}
  request = request._replace(past=past, options={**asked, **options})
  x = np.asarray(run.method.sample(run.params, jax.random.key(seed), request).x)
  return x[:, 1:]  # without the rests that a piece begins behind


def read_prompt(spec, path: pathlib.Path) -> Integer[np.ndarray, 'frames voices']:
  """The frames of a MIDI file."""
  voices, expected = midi.read(path), spec.shape[1]
  if len(voices) != expected:
    raise ConfigError(f'{path} has {len(voices)} tracks with notes; {spec.name} has {expected}')
  return spec.pitches.encode(voices, music.num_steps(voices))


def write(spec, x: Integer[np.ndarray, 'num frames voices'], out: pathlib.Path) -> list[str]:
  """Writes MIDI files, numbered where there are several; returns their names."""
  names = [out] if len(x) == 1 else [out.with_stem(f'{out.stem}-{i + 1}') for i in range(len(x))]
  for name, frames in zip(names, x, strict=True):
    midi.write(name, spec.pitches.decode(frames))
  return [str(name) for name in names]
