"""docs/tpu.md: slices that the papers' configs fit, each row compiled by its command line."""

import datetime
import json
import pathlib
import shlex
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from experiments.compile.topologies import GIB

LATENTS = '--spec="shape=(32,32,4),levels=0,num_classes=1000"'
BFLOAT16 = '--config.precision=bfloat16'
HALF_DIT = f'{BFLOAT16} --config.network.remat {LATENTS}'
EIGHT = '--config.train.micro_batches=5'
FSDP = '--config.parallel.data=1 --config.parallel.fsdp'


HEAD = """\
# TPUs

*For anyone who is about to pay for a slice: what fits which one.*

Made by `twofold compile --table=rows.jsonl > docs/tpu.md`, with jax 0.10.2 and libtpu 0.0.42.1 on a
2-core CPU machine ({dates}), without any TPU. Each row says that a program **compiles and
fits**: its shapes, shardings, kernels and memory are those of a slice. It does not say that it has
run, how fast it is, or that its numbers are right. [running.md](running.md#before-paying-for-tpus)
has the flags; `--suggest` looks for settings with which a config fits. Papers of
[configs/papers/](../configs/papers) that are not in the tables have not been compiled.

Sizes are GiB of each chip. The total is the compiler's, against what it allows. Parameters, state
of the optimiser and averages follow from shapes and shardings; the rest is activations, gradients
and batches. Collectives are those of one compiled call, which has `train.steps_per_call` steps:
their number, and the GiB of their operands on a chip (of an all-gather, of its results).
"""


SIZES = ('total', 'parameters', 'optimiser', 'averages', 'rest')
COLUMNS = ('config', 'slice', 'mesh', *SIZES, 'attention', 'collectives')


class Row(NamedTuple):
  """A row of the table.

  Attributes:
    config: FILE.py:variant, below configs/papers/.
    topology: the slice.
    flags: the other flags.
    step: a value of --step.
    slices: the number of slices.
  """

  config: str
  topology: str
  flags: str = ''
  step: str = 'train'
  slices: int = 1

  @property
  def command(self) -> str:
    """The command line of the row."""
    words = [f'twofold compile --config=configs/papers/{self.config} --topology={self.topology}']
    words += [f'--num_slices={self.slices}'] if self.slices > 1 else []
    words += [f'--step={self.step}'] if self.step != 'train' else []
    return ' '.join(filter(None, [*words, self.flags]))


def _dits() -> Iterator[Row]:
  for size, topology in {'S': 'v5e:2x4', 'B': 'v5e:2x4', 'L': 'v5e:4x4', 'XL': 'v5e:4x4'}.items():
    for patch in (8, 4, 2):
      yield Row(f'dit.py:{size}{patch}', topology, HALF_DIT)


# Each config of a paper on a slice that is like the machine of the paper.
TRAINING = (
  Row('ddpm.py:cifar10', 'v5e:2x4'),
  *(Row(f'edm.py:{name}', 'v5e:2x4') for name in ('cond_vp', 'cond_ve', 'uncond_vp', 'uncond_ve')),
  *_dits(),
  Row('dit.py:XL2_7M', 'v5e:4x4', HALF_DIT),
  Row('nanogpt.py:gpt2', 'v5e:2x4', EIGHT),
  Row('nanogpt.py:shakespeare_char', 'v5e:1x1', '--spec=levels=65'),
  Row('nanogpt.py:shakespeare_char_cpu', 'v5e:1x1', '--spec=levels=65'),
  Row('llama2.py:7B', 'v5e:16x16', f'{BFLOAT16} {FSDP}=256'),
)
# The same on other generations, and on two slices.
OTHERS = (
  Row('dit.py:XL2', 'v4:2x2x2', HALF_DIT),
  Row('dit.py:XL2', 'v5p:2x2x1', HALF_DIT),
  Row('dit.py:XL2', 'v6e:2x4', HALF_DIT),
  Row('dit.py:XL2', 'v5e:2x4', HALF_DIT, slices=2),
  Row('llama2.py:7B', 'v5p:4x4x4', f'{BFLOAT16} {FSDP}=64'),
  Row('llama2.py:7B', 'v5e:16x16', f'{BFLOAT16} --config.parallel.data=2 '
      '--config.parallel.fsdp=256', slices=2),
)  # fmt: skip
READING = (
  Row('ddpm.py:cifar10', 'v5e:2x4', step='sample'),
  Row('ddpm.py:cifar10', 'v5e:2x4', step='nll'),
  Row('dit.py:XL2', 'v5e:2x4', LATENTS, step='sample'),
  Row('nanogpt.py:gpt2', 'v5e:2x4', step='decode'),
  Row('nanogpt.py:gpt2', 'v5e:2x4', step='nll'),
  Row('llama2.py:7B', 'v5e:2x4', f'{BFLOAT16} {FSDP}=8 --config.evaluation.batch_size=32',
      step='decode'),
)  # fmt: skip
PARTS = {
  'Training, each config on a slice like the machine of its paper': TRAINING,
  'The same on other generations, and on two slices': OTHERS,
  'Sampling, likelihoods and decoding': READING,
}


def print_page(file: str) -> None:
  """Prints the page; compiles the rows that `file` lacks, and adds them to it as lines of JSON."""
  path = pathlib.Path(file)
  path.touch()
  for row in (row for rows in PARTS.values() for row in rows):
    if row.command not in _known(path):
      found = _compiled(row)
      with path.open('a') as out:
        print(json.dumps({'command': row.command} | found), file=out, flush=True)
  for line in _page(_known(path)):
    print(line)


def _known(path: pathlib.Path) -> dict[str, dict[str, Any]]:
  """{command: its report} of the rows in a file."""
  rows = [json.loads(line) for line in path.read_text().splitlines()]
  return {row['command']: row for row in rows}


def _compiled(row: Row) -> dict[str, Any]:
  """The report of a row. Each has a process of its own, so that none keeps memory of another."""
  command = [sys.executable, '-m', 'twofold', *shlex.split(row.command)[1:], '--json']
  done = subprocess.run(command, capture_output=True, text=True)
  today = datetime.date.today().isoformat()
  if not done.stdout.startswith('{'):
    return {'date': today, 'fits': False, 'error': done.stderr.strip().rpartition('\n')[2]}
  return {'date': today} | json.loads(done.stdout.splitlines()[0])


def _page(known: Mapping[str, Mapping[str, Any]]) -> Iterator[str]:
  dates = sorted({row['date'] for row in known.values()})
  yield HEAD.format(dates=' to '.join(dict.fromkeys((dates[0], dates[-1]))))
  for title, rows in PARTS.items():
    yield f'## {title}\n'
    yield from _table([row for row in rows if known[row.command]['fits']], known)
  if left_out := [row for rows in PARTS.values() for row in rows if not known[row.command]['fits']]:
    yield '## Left out\n'
    yield from (f'- `{row.command}`: {_reason(known[row.command])}' for row in left_out)


def _table(rows: Sequence[Row], known: Mapping[str, Mapping[str, Any]]) -> Iterator[str]:
  """A table of the rows, and their command lines."""
  yield f'| {" | ".join(COLUMNS)} |'
  yield f'| {" | ".join("---:" if name in SIZES else "---" for name in COLUMNS)} |'
  yield from (_line(row, known[row.command]) for row in rows)
  yield '\n```'
  yield from (row.command for row in rows)
  yield '```\n'


def _line(row: Row, found: Mapping[str, Any]) -> str:
  mesh = ' × '.join(f'{axis} {size}' for axis, size in found['mesh'].items() if size > 1) or '1'
  sizes = ('parameters', 'optimiser_state', 'averages', 'activations_and_rest')
  cells = [
    row.config.replace('.py', '') + (f', {row.step}' if row.step != 'train' else ''),
    row.topology if row.slices == 1 else f'{row.slices} × {row.topology}',
    mesh,
    f'**{found["total"] / GIB:.2f}** of {found["limit"] / GIB:.2f}',
    *(f'{found[name] / GIB:.2f}' if name in found else '' for name in sizes),
    ', '.join(found['attention']) or 'none',
    ', '.join(_traffic(kind, each) for kind, each in found['collectives'].items()) or 'none',
  ]
  return f'| {" | ".join(cells)} |'


def _traffic(kind: str, found: Mapping[str, int]) -> str:
  return f'{found["count"]:,} {kind} ({found["bytes"] / GIB:.2f})'


def _reason(found: Mapping[str, Any]) -> str:
  if 'error' in found:
    return found['error']
  return f'needs {found["total"] / GIB:.2f} of {found["limit"] / GIB:.2f} GiB'
