"""Compiles the programs of a config for TPUs that are not there, and says whether they fit.

twofold compile --config=configs/papers/dit.py:XL2 --topology=v5e:4x4 \\
    --spec="shape=(32,32,4),levels=0,num_classes=1000"
twofold compile --config=configs/papers/llama2.py:7B --topology=v5e:16x16 --suggest
twofold compile --config=configs/papers/nanogpt.py:gpt2 --topology=v4:2x2x2 --num_slices=2
twofold compile --config=configs/papers/nanogpt.py:gpt2 --topology=v5e:2x4 --step=decode --json

Needs the extra `tpu`, whose libtpu holds the compiler, and no TPU. It compiles the step of training
with its shardings, or the program that draws a batch of samples (sample, decode) or measures a
batch's likelihood (nll); each batch of the last three is evaluation.batch_size. It prints the
memory of each chip against what the compiler allows, what of it are parameters, optimiser state and
averages, the collectives, and which attention runs. That a program compiles and fits does not mean
that it has run: speed and numerics are not known.

--suggest tries precision, recomputed activations, micro-batches and meshes, and prints the flags of
the first that fits.

The exit code is 0 if the program fits, and 1 if not.
"""

import json
import sys
from collections.abc import Mapping

from absl import flags

from common.config import ConfigError
from experiments import cli, config_flag
from experiments.compile import programs, report, table, topologies
from experiments.compile.suggest import as_flags, suggestions

CONFIG = config_flag.define(
  'FILE.py[:variant], see `twofold list variants`; --config.a.b=value replaces a setting.'
)
TOPOLOGY = cli.define(
  'topology',
  f'GENERATION:SHAPE, in chips, such as v5e:4x4. Generations: {", ".join(topologies.GENERATIONS)}.',
)
NUM_SLICES = flags.DEFINE_integer('num_slices', 1, 'Number of such slices.', lower_bound=1)
STEP = flags.DEFINE_enum('step', 'train', list(programs.STEPS), 'The program to compile.')
SPEC = cli.define_items(
  'spec',
  'What the data are, where they are not prepared: shape=(32,32,4),levels=0,num_classes=1000. '
  'Values are integers below `levels`; 0: floats. num_train only sets the length of an epoch.',
)
SUGGEST = flags.DEFINE_bool(
  'suggest', False, 'If it does not fit, try other settings and name the first that fits.'
)
JSON = flags.DEFINE_bool('json', False, 'Print a line of JSON, with sizes in bytes.')
TABLE = cli.define(
  'table',
  'Print docs/tpu.md. FILE holds its rows as lines of JSON; those that it lacks are compiled and '
  'added to it.',
  cli.OutParser(),
)


def main() -> int:
  topologies.set_environment()
  if TABLE.value is not None:
    table.print_page(TABLE.value)
    return 0
  if TOPOLOGY.value is None:
    raise ValueError(f'--topology is missing: {flags.FLAGS["topology"].help}')
  where = topologies.parse(TOPOLOGY.value, NUM_SLICES.value)
  config, given = CONFIG.load(), cli.parse_options(SPEC.value, 'spec')
  try:
    found = report.compile_config(config, where, STEP.value, given)
  except report.TooLargeError as error:
    if not SUGGEST.value:
      raise
    print_refusal('', error)
    return suggest(config, where, given, state_fits=False)
  print_report('', found)
  if found.fits or not SUGGEST.value:
    return 0 if found.fits else 1
  return suggest(config, where, given)


def suggest(
  config: Mapping, where: topologies.Slice, given: Mapping, state_fits: bool = True
) -> int:
  """Compiles with other settings until one fits; returns the exit code."""
  devices = len(topologies.devices_of(where))
  for settings in suggestions(config, STEP.value, devices, state_fits):
    typed = as_flags(settings)
    changed = config_flag.load(CONFIG.file.value, CONFIG.texts | settings)
    try:
      found = report.compile_config(changed, where, STEP.value, given)
    except ConfigError as error:
      print_refusal(typed, error)
      continue
    print_report(typed, found)
    if found.fits:
      return 0
  print('nothing that was tried fits: use a larger slice', file=sys.stderr)
  return 1


def print_report(typed: str, found: report.Report) -> None:
  """Prints a report, and the flags that it is for."""
  if JSON.value:
    print(json.dumps({'flags': typed} | found.to_json()), flush=True)
    return
  for line in [f'with {typed}'] * bool(typed) + [*found.lines()]:
    print(line, flush=True)


def print_refusal(typed: str, error: Exception) -> None:
  """Prints why a config cannot be compiled."""
  if JSON.value:
    print(json.dumps({'flags': typed, 'fits': False, 'error': str(error)}), flush=True)
  else:
    print(f'{f"with {typed}: " if typed else ""}{error}', flush=True)


if __name__ == '__main__':
  cli.run(main)
