"""Compares the speed with peers on this machine, in turns within one process.

  twofold benchmark --suite=train,sample,decode,loop --out=benchmarks.md
  twofold benchmark --suite=language --weights=runs/smollm2 --out=language.md
  twofold benchmark --suite=gpu --out=benchmarks_gpu.md

On a shared machine only ratios are meaningful. Contenders therefore take turns (A B C A B C …), and
the table has the ratio of their median times. The extra `peers` installs the peers; without it,
only our own contenders run. The suites are in experiments/benchmarks/.

The suite gpu needs a GPU, has a table of its own (docs/benchmarks_gpu.md) and runs alone. With
--dry_run it compiles and runs everything at tiny sizes, on any machine.
"""

import functools
import importlib.util
import json
import os
import pathlib
import statistics
import time

from absl import flags, logging

from common.config import pick
from common.files import atomic_write
from common.reporting import provenance
from experiments import cli
from experiments.benchmarks import GPU, LANGUAGE, SUITES, gpu, isolated, language
from experiments.benchmarks.race import SIZES, Race, Sizes, matmul_peak

SUITE = flags.DEFINE_list(
  'suite',
  [*SUITES, LANGUAGE],
  f'Suites to run: {", ".join(SUITES)}, {LANGUAGE}; or, alone: {GPU}.',
)
WEIGHTS = cli.define(
  'weights', f'Suite {LANGUAGE}: WORKDIR of a run that convert has read.', cli.FolderParser()
)
SCALE = flags.DEFINE_enum(
  'scale', 'default', list(SIZES), 'Sizes of the models; smoke is only for tests.'
)
REPEATS = flags.DEFINE_integer(
  'repeats', 5, 'Timed calls of each contender.', lower_bound=1, upper_bound=10_000
)
OUT = cli.define('out', 'FILE.md for the table; the numbers go to FILE.json.', cli.OutParser())
PEERS = flags.DEFINE_bool('peers', True, 'Also measure peers, if they are installed.')
DRY_RUN = flags.DEFINE_bool('dry_run', False, 'Suite gpu: only compile and run it at tiny sizes.')
BUDGET = flags.DEFINE_float(
  'budget', 480.0, 'Suite gpu: seconds after which no contender starts.', lower_bound=1.0
)
ROWS = flags.DEFINE_list('rows', [], f'Suite gpu: rows to run, of {", ".join(gpu.ROWS)}; all.')

Seconds = dict[str, list[float]]  # {contender: seconds of each call}


def main() -> None:
  # One virtual device per core, unless the user has set XLA_FLAGS. This must come before the first
  # use of a device.
  os.environ.setdefault('XLA_FLAGS', f'--xla_force_host_platform_device_count={os.cpu_count()}')
  if OUT.value and pathlib.Path(OUT.value).suffix != '.md':
    raise ValueError(f'--out={OUT.value}: the name must end in .md')
  if GPU in SUITE.value:
    run_gpu_suite()
    return
  for flag in (DRY_RUN, BUDGET, ROWS):
    if flag.present:
      raise ValueError(f'--{flag.name} is for --suite={GPU} only; leave it out')
  sizes = SIZES[SCALE.value]
  peers = PEERS.value and all(
    importlib.util.find_spec(name) for name in ('torch', 'diffusers', 'transformers')
  )
  known = {**SUITES, LANGUAGE: language_suite, GPU: None}
  suites = {name: pick(known, name, 'suite') for name in SUITE.value}
  results: list[tuple[Race, Seconds]] = []
  for number, (name, suite) in enumerate(suites.items(), 1):
    for race in suite(sizes, peers):
      logging.info('[%d/%d] %s: %s', number, len(suites), name, race.name)
      # Written after every race, so that an interrupted benchmark keeps its results.
      results.append((race, run(race, REPEATS.value)))
      write(results, peers)
  print(table(results, peers))


def language_suite(sizes: Sizes, peers: bool) -> list[Race]:
  """The races of the weights in --weights; none without them."""
  del sizes
  if WEIGHTS.value is None:
    logging.info(
      'suite %s is skipped: it needs --weights=WORKDIR, a run of published weights', LANGUAGE
    )
    return []
  return language.races(WEIGHTS.value, peers)


def run_gpu_suite() -> None:
  """Runs the suite gpu, and writes its table after each contender.

  Raises:
    ValueError: for an unknown row, another suite next to it, or a failure in a dry run.
  """
  if len(SUITE.value) > 1:
    raise ValueError(f'--suite={",".join(SUITE.value)}: {GPU} runs alone, for its own table')
  rows = {name: pick(gpu.ROWS, name, '--rows') for name in ROWS.value} or gpu.ROWS
  options = isolated.Options(REPEATS.value, DRY_RUN.value, PEERS.value, BUDGET.value)
  facts, results = isolated.run(rows, options, functools.partial(write_gpu_suite, options))
  print(isolated.table(facts, results, options))
  failed = [f'{r.row}, {r.contender}: {r.failure}' for r in results if r.failure]
  if options.dry and failed:
    raise ValueError(f'{len(failed)} of {len(results)} contenders failed: {"; ".join(failed)}')


def write_gpu_suite(options: isolated.Options, facts: dict, results: list) -> None:
  """Writes the results so far of the suite gpu to the files of --out."""
  if OUT.value:
    atomic_write(OUT.value, isolated.table(facts, results, options))
    record = {'facts': facts, 'results': [result._asdict() for result in results]}
    atomic_write(pathlib.Path(OUT.value).with_suffix('.json'), json.dumps(record, indent=2))


def write(results: list[tuple[Race, Seconds]], peers: bool) -> None:
  """Writes the results so far to the files of --out."""
  if not OUT.value:
    return
  atomic_write(OUT.value, table(results, peers))
  record = [
    dict(name=race.name, unit=race.unit, note=race.note, amount=race.amount, seconds=seconds)
    for race, seconds in results
  ]
  atomic_write(pathlib.Path(OUT.value).with_suffix('.json'), json.dumps(record, indent=2))


def run(race: Race, repeats: int) -> Seconds:
  """Times the contenders' calls in turns, after a first call that compiles and does not count."""
  working, seconds = dict(race.contenders), {}
  for name, call in race.contenders.items():
    try:
      call()
    except Exception as error:  # torch.compile needs a compiler
      if name not in race.may_fail:
        raise
      logging.warning(
        '%s: %s failed and is left out: %s', race.name, name, str(error).splitlines()[0]
      )
      del working[name]
  # In turns, so that a slow phase of the machine affects all contenders equally.
  for _ in range(repeats):
    for name, call in working.items():
      start = time.perf_counter()
      measured = call()  # seconds, if the contender measures its own time
      seconds.setdefault(name, []).append(measured or time.perf_counter() - start)
  return seconds


def table(results: list[tuple[Race, Seconds]], peers: bool) -> str:
  """The results as Markdown."""
  lines = [
    '# Benchmarks',
    '',
    'Contenders take turns in one process. The rate is from the median call, the range from the',
    'slowest and the fastest call. The ratio is the median time of a contender divided by that of',
    'the first contender in its race: above 1, the first one is faster.',
    '',
    '| work | contender | rate | range | ratio |',
    '| --- | --- | ---: | ---: | ---: |',
  ]
  for race, seconds in results:
    first = statistics.median(next(iter(seconds.values())))
    title = f'{race.name} ({race.unit})'
    for number, (name, times) in enumerate(seconds.items()):
      # The longest time gives the lowest rate.
      middle, slow, fast = (race.amount / f(times) for f in (statistics.median, max, min))
      ratio = f'{statistics.median(times) / first:.2f}' if number else ''
      shown = '' if number else title
      lines.append(f'| {shown} | {name} | {middle:.4g} | {slow:.4g} – {fast:.4g} | {ratio} |')
  lines += ['', *(f'- {race.name}: {race.note}' for race, _ in results)]
  if any(race.flops for race, _ in results):
    lines += utilisation(results)
  if not peers:
    lines.append("- peers not installed: `pip install -e '.[peers]'`")
  facts = provenance.environment()
  lines += ['', '## Measured with', '', *(f'- {name}: {value}' for name, value in facts.items())]
  return '\n'.join(lines) + '\n'


def utilisation(results: list[tuple[Race, Seconds]]) -> list[str]:
  """Model FLOPs utilisation (PaLM's convention), relative to a matrix product measured now."""
  peak = matmul_peak()
  lines = [
    '',
    f'Model FLOPs utilisation, relative to the {peak / 1e9:.0f} GFLOP/s that a float32 product of',
    '2048 × 2048 matrices reaches here:',
    '',
  ]
  for race, seconds in results:
    if race.flops:
      shares = (
        f'{name} {race.flops * race.amount / statistics.median(times) / peak:.1%}'
        for name, times in seconds.items()
      )
      lines.append(f'- {race.name}: {", ".join(shares)}')
  return lines


if __name__ == '__main__':
  cli.run(main)
