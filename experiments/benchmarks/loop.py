"""The overhead of the training loop over its compiled step."""

import functools
import pathlib
import tempfile
import time

import jax

from common.data import pipeline
from common.reporting import writers
from common.training import loop as training_loop
from common.training.parallel import make_mesh
from common.training.program import build_program
from experiments import families
from experiments.benchmarks import autoregressive
from experiments.benchmarks.race import (
  OURS,
  BareStep,
  Race,
  Sizes,
  random_data,
  square_images,
)

PER_CALL = 10


def loop(sizes: Sizes, peers: bool) -> list[Race]:
  """A run with data, metrics and logs, against only its compiled step."""
  del peers
  one = sizes.transformers['default']
  config = autoregressive.config_of(one._replace(width=one.width // 2, batch=4))
  config['train'] |= dict(
    steps=str(sizes.loop_steps),
    steps_per_call=PER_CALL,
    log_every='10%',
    evaluate_every='0',
    sample_every='0',
    checkpoint_every='0',
  )
  spec = square_images(one.length)
  timed = sizes.loop_steps - PER_CALL  # the run's own clock leaves out its first call
  contenders = {
    OURS: functools.partial(timed_run, config, random_data(spec)),
    'bare step': functools.partial(
      timed_calls, BareStep(config, spec, PER_CALL), timed // PER_CALL
    ),
  }
  note = 'a run with data, metrics, logs and TensorBoard events, against only its compiled call'
  return [Race('the loop', 'steps/s', timed, contenders, note)]


def timed_run(config: dict, data: pipeline.Data) -> float:
  """Seconds in the training steps of a whole run."""
  # Built again for every call: each run compiles its own step, in the first call, which it does not
  # time.
  method = families.build(config, data.spec)
  mesh = make_mesh(config['parallel'], jax.devices()[:1])
  program = build_program(config, method, data.spec, mesh)
  with tempfile.TemporaryDirectory() as folder:
    workdir = pathlib.Path(folder)
    training_loop.train(config, method, data, program, workdir)
    return writers.training_seconds(workdir)


def timed_calls(step: BareStep, calls: int) -> float:
  """The seconds that a number of calls take."""
  start = time.perf_counter()
  for _ in range(calls):
    step()
  return time.perf_counter() - start
