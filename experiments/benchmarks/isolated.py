"""Measures each contender of a row in a process of its own, within a budget of time.

A process frees the whole memory of the card when it ends, its peak memory is that of one contender,
and what fails there (no memory left, a peer that is not installed, a crash) is one line of the
table. The processes are forks of one that has imported our code and initialised no device.
"""

import functools
import importlib.metadata
import multiprocessing
import os
import statistics
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from multiprocessing.connection import Connection
from typing import Any, NamedTuple

import jax
from absl import logging

from common.devices import limits
from common.reporting import provenance
from experiments.benchmarks import gpu
from experiments.benchmarks.gpu import Row, Work

MAX_SECONDS = 180.0  # seconds that one contender may take, compilation included
DRY_SECONDS = 900.0  # and in a dry run: a CPU compiles a U-Net for minutes
MIN_BUDGET = 10.0  # seconds of the budget without which no contender starts
ENOUGH_SECONDS = 4.0  # seconds of timed calls after which two suffice
OUT_OF_MEMORY = 'out of memory'
PEERS = ('torch', 'triton', 'diffusers', 'transformers')
DRY = ('Everything ran at tiny sizes, to see that it compiles. Nothing was measured.',)
EXPLAINED = (
  'Each contender runs alone on the card, in a process of its own, with the largest of the batches',
  'tried that fits. The rate is from the median call, after one that compiles. The ratio is the',
  "rate of the row's first contender divided by that of this one: above 1, the first is faster.",
  'MFU counts the model FLOPs of our model, against the dense peak of bfloat16. MBU counts all',
  "weights and the cache so far in bfloat16 for each token, against the memory's bandwidth.",
)


class Options(NamedTuple):
  """How to measure.

  Attributes:
    repeats: the most timed calls of a contender.
    dry: tiny sizes on any device, to see that all of it compiles and runs.
    peers: whether to measure the peers too.
    budget: seconds for everything.
  """

  repeats: int
  dry: bool
  peers: bool
  budget: float


class Result(NamedTuple):
  """The result of a contender.

  Attributes:
    row: the name of its row.
    contender: its name.
    batch: the size of its batch.
    seconds: of each timed call; empty if it failed.
    units: units of work in a call.
    flops: model FLOPs of a call; 0: not counted.
    bytes: bytes that a call has to read from memory; 0: not counted.
    parameters: of its model.
    peak_memory: bytes; None where the device does not tell.
    failure: why there are no seconds.
  """

  row: str
  contender: str
  batch: int
  seconds: tuple[float, ...] = ()
  units: float = 0.0
  flops: float = 0.0
  bytes: float = 0.0
  parameters: int = 0
  peak_memory: int | None = None
  failure: str = ''

  @property
  def rate(self) -> float:
    """Units per second, of the median call."""
    return self.units / statistics.median(self.seconds)


def run(
  rows: Mapping[str, Row], options: Options, write: Callable[[Mapping, list[Result]], None]
) -> tuple[Mapping[str, str], list[Result]]:
  """Measures the rows.

  Args:
    rows: rows by name.
    options: how to measure.
    write: is called with the facts and the results so far, after every contender.

  Returns:
    (facts about the machine, results).

  Raises:
    ValueError: this machine has no GPU, and this is not a dry run.
  """
  deadline = time.monotonic() + options.budget
  if jax.config.jax_compilation_cache_dir:
    # The processes share the compilation cache that the command has set.
    os.environ.setdefault('JAX_COMPILATION_CACHE_DIR', jax.config.jax_compilation_cache_dir)
  # A process has the card to itself: JAX may take nearly all of its memory at once.
  os.environ.setdefault('XLA_PYTHON_CLIENT_MEM_FRACTION', '0.92')
  facts, failure = in_process(environment, (), MAX_SECONDS)
  if failure:
    raise ValueError(f'cannot start JAX in a process of its own: {failure}')
  if facts.pop('platform') != 'gpu' and not options.dry:
    raise ValueError(
      f'--suite=gpu needs a GPU, and JAX sees {facts["devices"]}: install the extra cuda, or add '
      '--dry_run, which compiles everything at tiny sizes'
    )
  results: list[Result] = []
  for name, row in rows.items():
    for contender in row.names(options.peers):
      attempt = functools.partial(_attempt, name, contender, options, deadline)
      results.append(first_that_fits(row.sizes(options.dry), attempt))
      logging.info('%s, %s: %s', name, contender, summary(results[-1], options))
      write(facts, results)
  return facts, results


def environment() -> dict[str, str]:
  """The facts of `provenance.environment`, the platform, and the versions of the peers."""
  found = {name: _version(name) for name in PEERS}
  versions = ', '.join(f'{name} {version}' for name, version in found.items() if version)
  kind = jax.devices()[0].device_kind
  more = {'peers': versions or 'none', 'platform': jax.default_backend(), 'kind': kind}
  return provenance.environment() | more


def _version(package: str) -> str:
  try:
    return importlib.metadata.version(package)
  except importlib.metadata.PackageNotFoundError:
    return ''


def first_that_fits(batches: Iterable[int], attempt: Callable[[int], Result]) -> Result:
  """The result for the first batch with which the memory suffices, or else for the last one."""
  for batch in batches:
    result = attempt(batch)
    if result.failure != OUT_OF_MEMORY:
      break
    logging.info('%s, %s: batch %d does not fit', result.row, result.contender, batch)
  return result


def _attempt(name: str, contender: str, options: Options, deadline: float, batch: int) -> Result:
  """The result for a batch, in what is left of the budget."""
  left = deadline - time.monotonic()
  if left < MIN_BUDGET:
    shown = f'not started: the budget of {options.budget:g} s is spent'
    return Result(name, contender, batch, failure=shown)
  arguments = (name, contender, batch, options)
  longest = DRY_SECONDS if options.dry else MAX_SECONDS
  measured, failure = in_process(measure, arguments, min(left, longest))
  return Result(name, contender, batch, **measured, failure=failure)


def measure(name: str, contender: str, batch: int, options: Options) -> dict[str, Any]:
  """The fields of a `Result`, measured in this process."""
  work = build(name, contender, batch, options.dry)
  work.call()  # compiles
  seconds: list[float] = []
  for _ in repetitions(options.repeats, seconds):
    start = time.perf_counter()
    measured = work.call()  # seconds, if it measures its own time
    seconds.append(measured or time.perf_counter() - start)
  return dict(
    seconds=tuple(seconds),
    units=work.units,
    flops=work.flops,
    bytes=work.bytes,
    parameters=work.parameters,
    peak_memory=work.peak_memory(),
  )


def repetitions(repeats: int, seconds: list[float]) -> Iterator[int]:
  """Counts timed calls, whose `seconds` the caller adds: until they are many, or long enough."""
  for number in range(repeats):
    if number >= 2 and sum(seconds) > ENOUGH_SECONDS:
      return
    yield number


def build(name: str, contender: str, batch: int, dry: bool) -> Work:
  """The work of a contender of a row."""
  row = gpu.ROWS[name]
  config, spec = row.config_of(batch, dry), row.spec_of(dry)
  if contender in row.ours:
    return row.ours[contender](config, spec)
  from experiments.benchmarks import peers_gpu

  return peers_gpu.CONTENDERS[contender, row.kind](config, spec)


def in_process(
  function: Callable[..., dict], arguments: tuple, timeout: float
) -> tuple[dict[str, Any], str]:
  """(what a function returns in a new process, '' or why it returned nothing)."""
  context = multiprocessing.get_context('forkserver')
  context.set_forkserver_preload([__name__])
  receiver, sender = context.Pipe(duplex=False)
  process = context.Process(target=_send, args=(sender, function, arguments), daemon=True)
  process.start()
  sender.close()  # so that the end of the process ends the wait
  try:
    if not receiver.poll(timeout):
      return {}, f'stopped after {timeout:.0f} s'
    return receiver.recv()
  except EOFError:
    process.join()
    return {}, f'its process ended with code {process.exitcode}'
  finally:
    process.kill()
    process.join()


def _send(sender: Connection, function: Callable[..., dict], arguments: tuple) -> None:
  try:
    message = function(*arguments), ''
  except Exception as error:
    message = {}, reason(error)
  sender.send(message)


def reason(error: Exception) -> str:
  """Why a contender failed, in one line that fits a table."""
  if isinstance(error, ImportError):
    return f'not installed: {error.name}'
  text = ' '.join(str(error).split())
  if 'RESOURCE_EXHAUSTED' in text or 'out of memory' in text.lower():
    return OUT_OF_MEMORY
  return f'{type(error).__name__}: {text[:160]}'.replace('|', '/')


def summary(result: Result, options: Options) -> str:
  """What the log says of a result."""
  if result.failure:
    return result.failure
  rate = 'ran' if options.dry else f'{result.rate:.4g} {gpu.ROWS[result.row].unit}'
  return f'{rate}, batch {result.batch}'


def table(facts: Mapping[str, str], results: list[Result], options: Options) -> str:
  """The results as Markdown."""
  kind = facts.get('kind', '')
  lines = [
    '# GPU benchmarks' + (' (dry run)' if options.dry else ''),
    '',
    *(DRY if options.dry else EXPLAINED),
    '',
    '| work | contender | batch | rate | ratio | MFU or MBU | peak memory | parameters | aim |',
    '| --- | --- | ---: | ---: | ---: | ---: | ---: | ---: | --- |',
  ]
  for name, row in gpu.ROWS.items():
    own = [result for result in results if result.row == name]
    for number, result in enumerate(own):
      title, aim = (f'{row.title} ({row.unit})', row.aim) if number == 0 else ('', '')
      cells = [result.failure or 'ran', *[''] * 4]
      if result.seconds and not options.dry:
        cells = _cells(result, own[0], kind)
      shown = ' | '.join(cells)
      lines.append(f'| {title} | {result.contender} | {result.batch} | {shown} | {aim} |')
  if not options.peers:
    lines += ['', 'Peers were not measured (--nopeers).']
  lines += ['', '## Measured with', '', f'- command: {provenance.command()}']
  lines += [f'- {key}: {facts[key]}' for key in ('devices', 'machine', 'date', 'versions', 'peers')]
  return '\n'.join(lines) + '\n'


def _cells(result: Result, first: Result, kind: str) -> list[str]:
  """Rate, ratio, utilisation, peak memory and parameters of a contender that was measured."""
  memory = '' if result.peak_memory is None else f'{result.peak_memory / 2**30:.1f} GiB'
  parameters = f'{result.parameters:,}' if result.parameters else ''
  ratio = ''
  if first.seconds and first is not result:
    ratio = f'{first.rate / result.rate:.3g}'
  return [f'{result.rate:.4g}', ratio, utilisation(result, first, kind), memory, parameters]


def utilisation(result: Result, first: Result, kind: str) -> str:
  """The share of the peak of products (MFU) or of the memory's bandwidth (MBU) that was used.

  The model FLOPs of a unit of work are those of the row's first contender: our own model.
  """
  middle = statistics.median(result.seconds)
  peak = limits.peak_flops(kind, 1, 'bfloat16')
  if first.flops and peak:
    return f'MFU {result.rate * first.flops / first.units / peak:.1%}'
  if result.bytes and kind in limits.MEMORY_BANDWIDTH:
    return f'MBU {result.bytes / middle / (1e12 * limits.MEMORY_BANDWIDTH[kind]):.1%}'
  return ''
