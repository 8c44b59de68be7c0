"""Small MusicXML scores and chorales for tests."""

import hashlib
import io
import zipfile

import numpy as np

CONTAINER = '<container><rootfiles><rootfile full-path="{}"/></rootfiles></container>'
STEPS = 'CDEFGAB'


def note(step='C', octave=4, duration=4, inside='', alter=None) -> str:
  """A <note>; `inside` holds further elements, such as a tie."""
  alter = '' if alter is None else f'<alter>{alter}</alter>'
  pitch = f'<pitch><step>{step}</step>{alter}<octave>{octave}</octave></pitch>'
  return f'<note>{inside}{pitch}<duration>{duration}</duration></note>'


def rest(duration=4) -> str:
  """A rest."""
  return f'<note><rest/><duration>{duration}</duration></note>'


def score(*parts: str, divisions=4) -> str:
  """A score whose parts have one measure each; by default durations are in sixteenths."""
  attributes = f'<attributes><divisions>{divisions}</divisions></attributes>'
  inside = ''.join(f'<part><measure>{attributes}{part}</measure></part>' for part in parts)
  return f'<?xml version="1.0"?><score-partwise>{inside}</score-partwise>'


def mxl(xml: str, name='score.xml', container=True) -> bytes:
  """A zipped score."""
  buffer = io.BytesIO()
  with zipfile.ZipFile(buffer, 'w') as archive:
    archive.writestr(name, xml)
    if container:
      archive.writestr('META-INF/container.xml', CONTAINER.format(name))
  return buffer.getvalue()


def random_score(seed: int, notes=12) -> str:
  """Four parts with notes of random lengths, some of them repeated, and a rest in each."""
  rng = np.random.default_rng(seed)
  parts = []
  for octave in (5, 4, 4, 3):
    pitches = np.repeat(rng.integers(0, 7, notes // 2), 2)
    made = [note(STEPS[i], octave, rng.integers(1, 5)) for i in pitches]
    parts.append(''.join(made[:5]) + rest(2) + ''.join(made[5:]))
  return score(*parts)


def write_wheel(path, scores: dict[str, bytes]) -> str:
  """Writes a package with these scores; returns the sha256 of their names and contents."""
  with zipfile.ZipFile(path, 'w') as archive:
    for name, data in scores.items():
      archive.writestr(f'music21/corpus/bach/{name}', data)
  joined = b''.join(name.encode() + scores[name] for name in sorted(scores))
  return hashlib.sha256(joined).hexdigest()
