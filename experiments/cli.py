"""Shared by all commands: errors, exit codes, signals, values of flags, the compilation cache.

Exit codes: 0 done; 1 failed, with one line that says why; 75 stopped by a signal after saving, and
the same command resumes.
"""

import ast
import contextlib
import logging as std_logging
import os
import pathlib
import platform
import signal
import sys
import zlib
from collections.abc import Callable, Iterator

import jax
from absl import app, flags, logging

from common.checkpoints.checkpoints import CheckpointError
from common.training.meters import TrainingError

PACKAGES = ('autoregressive', 'common', 'configs', 'diffusion', 'experiments')
STOPPED = 75
# Errors of the user or the machine: reported in one line, without a traceback.
EXPECTED = (ValueError, OSError, CheckpointError, TrainingError)

flags.DEFINE_bool('debug', False, 'Show the full traceback of an error.')
flags.DEFINE_string(
  'compilation_cache', '', "Folder of JAX's compilation cache; empty: in the user's cache folder."
)


def run(main: Callable[[], int | None]) -> None:
  """Parses the flags, runs `main` and exits with its code (None: 0)."""

  def guarded(argv: list[str]) -> None:
    logging.set_verbosity(logging.INFO)
    logging.get_absl_handler().addFilter(_ours_or_serious)
    try:
      if len(argv) > 1:
        raise ValueError(f'unexpected argument {argv[1]!r}; settings are flags, see --help')
      _use_compilation_cache(flags.FLAGS.compilation_cache)
      sys.exit(main() or 0)
    except EXPECTED as error:
      if flags.FLAGS.debug:
        raise
      fail(error)

  app.run(guarded, flags_parser=_parse)


def _ours_or_serious(record) -> bool:
  """Whether to show a log record: all of ours, and only warnings and errors of libraries."""
  ours = pathlib.Path(__file__).parents[1]
  path = pathlib.Path(record.pathname)
  inside = path.is_relative_to(ours) and path.relative_to(ours).parts[0] in PACKAGES
  return inside or record.levelno >= std_logging.WARNING


def _parse(argv: list[str]) -> list[str]:
  """absl's parser; a wrong flag is an error of one line."""
  try:
    return flags.FLAGS(argv)
  except flags.Error as error:
    fail(error)


def fail(error: Exception) -> None:
  """Says what went wrong in one line, and exits with 1."""
  text = ' '.join(str(error).split()) or type(error).__name__
  print(f'error: {text}', file=sys.stderr)
  sys.exit(1)


def _use_compilation_cache(folder: str) -> None:
  """Sets a cache per type of processor: XLA's code for one may not run on another."""
  if jax.config.jax_compilation_cache_dir:
    return  # the environment has set it
  home = os.environ.get('XDG_CACHE_HOME') or pathlib.Path.home() / '.cache'
  with contextlib.suppress(OSError):
    # Compiled code may use instructions of this processor: its name and features make the folder.
    flags_of_cpu = pathlib.Path('/proc/cpuinfo').read_text().partition('\n\n')[0]
    features = [line for line in flags_of_cpu.splitlines() if line.startswith(('flags', 'model'))]
    machine = f'{platform.machine()}-{zlib.crc32("".join(features).encode()):08x}'
    folder = folder or str(pathlib.Path(home) / 'twofold' / 'jax' / machine)
  if folder:
    jax.config.update('jax_compilation_cache_dir', folder)
    jax.config.update('jax_persistent_cache_min_compile_time_secs', 0.5)


@contextlib.contextmanager
def stop_on_signals() -> Iterator[Callable[[], bool]]:
  """Yields a function that says whether SIGTERM or SIGINT came; a second one ends the process."""
  came: list[int] = []

  def note(number: int, frame) -> None:
    del frame
    came.append(number)
    # A handler only notes the signal: the loop saves between two steps, when the state is complete.
    signal.signal(number, before[number])
    logging.info('%s: saving, then stopping', signal.Signals(number).name)

  before = {number: signal.signal(number, note) for number in (signal.SIGTERM, signal.SIGINT)}
  try:
    yield lambda: bool(came)
  finally:
    # A handler that stayed would swallow signals after the command has finished.
    for number, handler in before.items():
      signal.signal(number, handler)


def define_options() -> flags.FlagHolder:
  """The flag; its value is for `parse_options`."""
  return flags.DEFINE_list(
    'options', [], "Sampler settings that replace the config's: name=value, separated by commas."
  )


def parse_options(items: list[str]) -> dict:
  """{'steps': 20} from ['steps=20']; a value that is not a Python literal stays text.

  Raises:
    ValueError: for an item without '='.
  """
  options = {}
  for item in _join_brackets(items):
    name, equals, text = item.partition('=')
    if not equals or not name:
      raise ValueError(f'--options={item!r}: write name=value, such as steps=20')
    options[name.strip()] = _parse_value(text.strip())
  return options


def parse_component(items: list[str]) -> dict | None:
  """{'name': 'flow', 'trace': 'exact'} from ['flow', 'trace=exact']; None from an empty list.

  Raises:
    ValueError: for settings without a name.
  """
  if not items:
    return None
  if '=' in items[0]:
    raise ValueError(
      f'--likelihood={",".join(items)}: write the name first, such as flow,trace=exact'
    )
  return {'name': items[0]} | parse_options(items[1:])


def parse_widths(items: list[str]) -> list[float]:
  """Widths of averages of the parameters.

  Raises:
    ValueError: for a width that is not a number.
  """
  try:
    return [float(item) for item in items]
  except ValueError:
    raise ValueError(f'--ema={",".join(items)}: write widths, such as 0.05,0.1') from None


def _join_brackets(items: list[str]) -> list[str]:
  """Joins items that the flag parser split within brackets: 'times=(3.0', '1.0)'."""
  whole: list[str] = []
  for item in items:
    if whole and whole[-1].count('(') > whole[-1].count(')'):
      whole[-1] += f',{item}'
    else:
      whole.append(item)
  return whole


def _parse_value(text: str):
  if text.lower() in ('true', 'false'):
    return text.lower() == 'true'
  try:
    return ast.literal_eval(text)
  except (ValueError, SyntaxError):
    return text


def parse_step(text: str) -> str | int:
  """A checkpoint: 'last', 'best' or a number."""
  if text in ('last', 'best'):
    return text
  if text.isdecimal():
    return int(text)
  raise ValueError(f"--step={text!r}: write 'last', 'best' or a number")
