"""README is true: the files that one training step runs are those that it lists."""

import contextlib
import pathlib
import re
import sys
import threading

import jax
import pytest

from common.data import pipeline
from common.training.loop import batches_by_call
from common.training.parallel import make_mesh
from common.training.program import build_program
from experiments import families

ROOT = pathlib.Path(__file__).parents[1]
PACKAGES = ('autoregressive', 'common', 'diffusion', 'experiments')
# Small, and without the settings that take other paths.
CONFIGS = {
  'diffusion': ('configs/diffusion/images.py:digits', {'network.depth': 1}),
  'autoregressive': ('configs/autoregressive/images.py:digits_4x4', {'network.layers': 1}),
}


@contextlib.contextmanager
def recorded_files():
  """Yields a set that receives the files of this repository whose functions are called."""
  found = set()

  def note(frame, event, argument):
    del argument
    name = frame.f_code.co_filename.removeprefix(f'{ROOT}/')
    if event == 'call' and name.partition('/')[0] in PACKAGES:
      found.add(name)

  threading.setprofile(note)  # batches are made in a thread of their own
  sys.setprofile(note)
  try:
    yield found
  finally:
    sys.setprofile(None)
    threading.setprofile(None)


def listed_files(heading):
  """The files that README links in the part under a heading."""
  text = (ROOT / 'README.md').read_text()
  part = re.search(rf'^\*\*{re.escape(heading)}\*\*.*?(?=^\*\*|^## )', text, re.M | re.S).group()
  return set(re.findall(r'\]\(([\w/]+\.py)\)', part))


def files_of_a_step(family):
  """The files that make and take one training step, from the batch to the new state."""
  file, changes = CONFIGS[family]
  config = families.load_config(file, changes | {'train.steps': '1', 'train.steps_per_call': 1})
  data = pipeline.load(config['data'])
  method = families.build(config, data.spec)
  mesh = make_mesh(config['parallel'], jax.devices()[:1])
  program = build_program(config, method, data.spec, mesh)
  state = program.step.create_state(program.init)
  with recorded_files() as found:
    for _, _, batches in batches_by_call(config, data, program.schedule, 0):
      program.step.run(state, program.step.put_batches(batches))
  return found


@pytest.mark.parametrize('family', CONFIGS)
def test_the_way_of_one_batch_lists_every_file(family):
  shared, own = listed_files('Both families'), listed_files(f'Only {family}')
  assert files_of_a_step(family) == shared | own
