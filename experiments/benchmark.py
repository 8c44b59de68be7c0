"""Measures speed against peers on this machine, in turn and in one run, and prints ratios.

  python -m experiments.benchmark --suite=train,sample,decode,loop --out=benchmarks.md

An absolute time means little on a shared machine: contenders take turns A B C A B C …, and the
ratio of medians is what to read. Peers come with the `peers` extra; without it ours run alone.
The suites are in experiments/races/.
"""

import importlib.util
import json
import os
import pathlib
import statistics
import time

from absl import flags, logging

from common.config import pick
from common.files import atomic_write
from common.reporting import report
from experiments import cli
from experiments.benchmarks import SUITES
from experiments.benchmarks.race import SIZES, Race, matmul_peak

SUITE = flags.DEFINE_list('suite', list(SUITES), f'What to measure, of {", ".join(SUITES)}.')
SCALE = flags.DEFINE_enum('scale', 'default', list(SIZES), 'smoke: seconds, for tests.')
REPEATS = flags.DEFINE_integer('repeats', 5, 'Timed calls of each contender.', lower_bound=1)
OUT = flags.DEFINE_string('out', '', 'Markdown file for the table; the numbers go to FILE.json.')
PEERS = flags.DEFINE_bool('peers', True, 'Measure peers too, where they are installed.')

Seconds = dict[str, list[float]]  # of each contender's calls


def main() -> None:
  # Before the first use of a device; other flags of the user's are left alone.
  os.environ.setdefault('XLA_FLAGS', f'--xla_force_host_platform_device_count={os.cpu_count()}')
  sizes = SIZES[SCALE.value]
  peers = PEERS.value and all(
    importlib.util.find_spec(name) for name in ('torch', 'diffusers', 'transformers')
  )
  suites = {name: pick(SUITES, name, 'suite') for name in SUITE.value}
  results: list[tuple[Race, Seconds]] = []
  for number, (name, suite) in enumerate(suites.items(), 1):
    for race in suite(sizes, peers):
      logging.info('[%d/%d] %s: %s', number, len(suites), name, race.name)
      results.append((race, run(race, REPEATS.value)))
      write(results, peers)
  print(table(results, peers))


def write(results: list[tuple[Race, Seconds]], peers: bool) -> None:
  """What is measured so far, to the files asked for."""
  if not OUT.value:
    return
  atomic_write(OUT.value, table(results, peers))
  record = [
    dict(name=race.name, unit=race.unit, note=race.note, amount=race.amount, seconds=seconds)
    for race, seconds in results
  ]
  atomic_write(pathlib.Path(OUT.value).with_suffix('.json'), json.dumps(record, indent=2))


def run(race: Race, repeats: int) -> Seconds:
  """Seconds of each contender's calls, taken in turn after one call that is not counted."""
  alive, seconds = dict(race.contenders), {}
  for name, call in race.contenders.items():
    try:
      call()
    except Exception as error:  # torch.compile needs a compiler
      if name not in race.may_fail:
        raise
      logging.warning('%s: %s left out: %s', race.name, name, str(error).splitlines()[0])
      del alive[name]
  for _ in range(repeats):
    for name, call in alive.items():
      start = time.perf_counter()
      own = call()  # seconds by the contender's own clock, or None
      seconds.setdefault(name, []).append(own or time.perf_counter() - start)
  return seconds


def table(results: list[tuple[Race, Seconds]], peers: bool) -> str:
  """The results as Markdown."""
  lines = [
    '# Benchmarks',
    '',
    'Contenders take turns in one process; a rate is that of the median call, its range that of',
    'the slowest and the fastest. The ratio is the time of a contender over that of the first of',
    'its race: above 1, the first is the faster.',
    '',
    '| what | contender | rate | range | ratio |',
    '| --- | --- | ---: | ---: | ---: |',
  ]
  for race, seconds in results:
    first = statistics.median(next(iter(seconds.values())))
    what = f'{race.name} ({race.unit})'
    for number, (name, times) in enumerate(seconds.items()):
      middle, slow, fast = (race.amount / f(times) for f in (statistics.median, max, min))
      ratio = f'{statistics.median(times) / first:.2f}' if number else ''
      shown = '' if number else what
      lines.append(f'| {shown} | {name} | {middle:.4g} | {slow:.4g} – {fast:.4g} | {ratio} |')
  lines += ['', *(f'- {race.name}: {race.note}' for race, _ in results)]
  if any(race.flops for race, _ in results):
    lines += utilisation(results)
  if not peers:
    lines.append('- peers not installed: `pip install twofold[peers]`')
  facts = report.environment()
  lines += ['', '## Measured with', '', *(f'- {name}: {value}' for name, value in facts.items())]
  return '\n'.join(lines) + '\n'


def utilisation(results: list[tuple[Race, Seconds]]) -> list[str]:
  """Model FLOPs utilisation (PaLM's convention), over a matrix product measured here and now."""
  peak = matmul_peak()
  lines = [
    '',
    f'Model FLOPs utilisation, of the {peak / 1e9:.0f} GFLOP/s that a float32 matrix product of',
    'side 2048 reaches here:',
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
