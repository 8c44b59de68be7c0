"""The benchmark command, at a size too small to measure speed."""

import importlib.util
import json

import pytest

from tests.experiments.commands import refused, run

SMALL = ('--scale=smoke', '--repeats=1')


@pytest.mark.slow
def test_every_suite_without_peers(tmp_path):
  out = tmp_path / 'benchmarks.md'
  printed = run('benchmark', *SMALL, '--nopeers', f'--out={out}')
  record = json.loads(out.with_suffix('.json').read_text())
  names = ['training step, transformer', 'training step, U-Net', 'DDIM', 'network evaluations']
  names += ['likelihood', 'decoding', 'a decoded token', 'PixelCNN++', 'the loop']
  assert [next(n for n in names if r['name'].startswith(n)) for r in record] == names
  assert all(s > 0 for r in record for times in r['seconds'].values() for s in times)
  assert 'peers not installed' in printed and 'Model FLOPs utilisation' in out.read_text()


@pytest.mark.peers
def test_peers_have_the_same_number_of_parameters(tmp_path):
  for name in ('torch', 'diffusers', 'transformers'):
    if importlib.util.find_spec(name) is None:
      pytest.skip(f'{name} is not installed')
  printed = run('benchmark', *SMALL, '--suite=train')
  notes = [line.split('batch ')[1] for line in printed.splitlines() if 'of the peer' in line]
  assert len(notes) == 2
  for note in notes:
    ours, theirs = note.split(': ')[1].split(' parameters, of the peer ')
    assert ours == theirs


def test_an_unknown_suite():
  assert "unknown suite 'training'; did you mean 'train'" in refused(
    'benchmark', '--suite=training'
  )
