"""What the training loop costs over its compiled step."""

import pathlib
import tempfile
import time

import jax

from common.training import loop as training_loop
from common.training.parallel import make_mesh
from common.training.program import build_program
from experiments import families, runs
from experiments.benchmarks import autoregressive
from experiments.benchmarks.race import OURS, Race, Sizes, bare_step, random_data, square


def loop(sizes: Sizes, peers: bool) -> list[Race]:
  """A run with its data, metrics and logs, against its step alone."""
  del peers
  one = sizes.transformers['default']
  config = autoregressive.config_of(one._replace(width=one.width // 2, batch=4))
  steps, per_call = sizes.loop_steps, 10
  config['train'] |= dict(
    steps=str(steps),
    steps_per_call=per_call,
    log_every='10%',
    evaluate_every='0',
    sample_every='0',
    checkpoint_every='0',
  )
  spec = square(one.length)
  bare = bare_step(config, spec, per_call)
  timed = steps - per_call  # the run's own clock leaves its first call out

  def whole() -> float:
    method = families.build(config, spec)
    program = build_program(config, method, spec, make_mesh(config['parallel'], jax.devices()[:1]))
    with tempfile.TemporaryDirectory() as folder:
      workdir = pathlib.Path(folder)
      training_loop.train(config, method, random_data(spec), program, workdir)
      return runs.training_seconds(workdir)

  def alone() -> float:
    start = time.perf_counter()
    for _ in range(timed // per_call):
      bare.call()
    return time.perf_counter() - start

  note = 'a run with data, metrics, logs and TensorBoard events, against its compiled call alone'
  return [Race('the loop', 'steps/s', timed, {OURS: whole, 'step alone': alone}, note)]
