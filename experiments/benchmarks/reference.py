"""Trains a text model in this code and in PyTorch, with equal batches and initial weights.

python -m experiments.benchmarks.reference --workdir=runs/reference --out=docs/shakespeare.png

Needs the extra `peers` and the prepared dataset (`twofold prepare_data --dataset=shakespeare`).
WORKDIR/ours is our run; WORKDIR/reference.json has both curves. Prints both final losses on the
validation split. `--steps` shortens the run.
"""

import json
import pathlib
import time

import jax
import numpy as np
from absl import flags, logging

from common.data import pipeline
from common.files import atomic_write
from common.reporting import writers
from common.training.parallel import make_mesh
from common.training.program import build_program
from experiments import cli, families, runs
from experiments.startup import signals

CONFIG = flags.DEFINE_string(
  'config', 'configs/autoregressive/text.py:shakespeare_char', 'FILE.py:variant of a text model.'
)
WORKDIR = flags.DEFINE_string('workdir', None, 'Folder for the run and the curves.', required=True)
DATA_DIR = flags.DEFINE_string('data_dir', '', 'Folder of the prepared dataset.')
STEPS = flags.DEFINE_string('steps', '', "Replaces the config's train.steps.")
OUT = flags.DEFINE_string('out', '', 'PNG file for a plot of the curves.')


def main() -> int:
  overrides = {'data.dir': DATA_DIR.value} if DATA_DIR.value else {}
  overrides |= {'train.steps': STEPS.value} if STEPS.value else {}
  config = families.load_config(CONFIG.value, overrides)
  workdir = pathlib.Path(WORKDIR.value)
  # Our own run comes first, because the peer is evaluated at the same steps.
  with signals.stop_on_signals() as stop:
    if not runs.train(config, workdir / 'ours', stop=stop):
      return signals.STOPPED
  ours = [(row['step'], row['loss']) for row in writers.read(workdir / 'ours', 'validation')]
  seconds = {'twofold': writers.training_seconds(workdir / 'ours')}
  theirs, seconds['PyTorch'] = train_peer(config, [step for step, _ in ours])
  curves = {'twofold': ours, 'PyTorch': theirs}
  record = {'config': CONFIG.value, 'curves': curves, 'seconds': seconds}
  atomic_write(workdir / 'reference.json', json.dumps(record, indent=2))
  if OUT.value:
    atomic_write(OUT.value, picture(curves))
  for name, curve in curves.items():
    print(f'{name}: validation loss {curve[-1][1]:.4f} at step {curve[-1][0]}')
  print(f'difference {ours[-1][1] - theirs[-1][1]:+.4f}')
  return 0


def train_peer(config: dict, evaluated: list[int]) -> tuple[list[tuple[int, float]], float]:
  """Trains the PyTorch model; returns (step, validation loss) at the given steps, and seconds."""
  from experiments.benchmarks import peers_text as peers

  data = pipeline.load(config['data'])
  method = families.build(config, data.spec)
  program = build_program(config, method, data.spec, make_mesh(config['parallel']))
  params = jax.device_get(jax.jit(program.init)().params)
  # The same initial weights as in our own run: they depend only on the config's seed.
  model = peers.CharacterGPT(params, config['network']['heads'])
  step = peers.train_language_model(model, config['optimizer'])
  size, curve, seconds = config['data']['batch_size'], [], 0.0
  for n in range(program.schedule.total):
    batch = pipeline.train_batch(data, config['seed'], n, size)
    # Batch n of our own run, at its learning rate; only the step is timed.
    start = time.perf_counter()
    step(batch['x'], float(program.lr_schedule(n)))
    seconds += time.perf_counter() - start
    if n + 1 in evaluated:
      split = data.splits['validation']
      loss = peers.language_model_loss(model, split.gather(np.arange(len(split)))['x'])
      curve.append((n + 1, loss))
      logging.info('PyTorch, step %d validation: loss %.4f', n + 1, loss)
  return curve, seconds


def picture(curves: dict[str, list[tuple[int, float]]]) -> bytes:
  """The curves as PNG."""
  import io

  import matplotlib.figure

  figure = matplotlib.figure.Figure((5.0, 3.2), dpi=110)
  axis = figure.subplots()
  for (name, curve), style in zip(curves.items(), ('-o', '--x'), strict=True):
    axis.plot(*zip(*curve, strict=True), style, label=name, markersize=5, linewidth=1.2)
  axis.set_xlabel('step')
  axis.set_ylabel('validation loss, nats per character')
  axis.grid(alpha=0.3)
  axis.legend()
  figure.tight_layout()
  buffer = io.BytesIO()
  figure.savefig(buffer, format='png')
  return buffer.getvalue()


if __name__ == '__main__':
  cli.run(main)
