"""Shared code of all commands: errors, exit codes, signals, flag values, compilation cache.

Exit codes: 0: finished; 1: failed, with one line that says why; 75: stopped by a signal after
saving, so that the same command resumes.
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
# Errors that the user or the machine causes: reported in one line, without a traceback.
EXPECTED = (ValueError, OSError, CheckpointError, TrainingError)

flags.DEFINE_bool('debug', False, 'Show the full traceback of an error.')
flags.DEFINE_string(
  'compilation_cache', '', "Folder of JAX's compilation cache; empty: in the user's cache folder."
)
flags.disclaim_key_flags()  # flags that are defined below belong to the command that asks for them


def run(main: Callable[..., int | None], takes_arguments: bool = False) -> None:
  """Parses the flags, runs `main` and exits with its code (None: 0).

  Args:
    main: the command.
    takes_arguments: whether it takes arguments besides flags; `main` then receives them as a list.
  """

  def guarded(argv: list[str]) -> None:
    logging.set_verbosity(logging.INFO)
    logging.get_absl_handler().addFilter(_ours_or_serious)
    try:
      if len(argv) > 1 and not takes_arguments:
        raise ValueError(f'unexpected argument {argv[1]!r}; write --name=value, see --help')
      _use_compilation_cache(flags.FLAGS.compilation_cache)
      sys.exit((main(argv[1:]) if takes_arguments else main()) or 0)
    except EXPECTED as error:
      if flags.FLAGS.debug:
        raise
      fail(error)

  app.run(guarded, flags_parser=_parse)


def _ours_or_serious(record) -> bool:
  """Whether to show a log record: all of our own, but only warnings and errors of libraries."""
  ours = pathlib.Path(__file__).parents[1]
  path = pathlib.Path(record.pathname)
  inside = path.is_relative_to(ours) and path.relative_to(ours).parts[0] in PACKAGES
  return inside or record.levelno >= std_logging.WARNING


def _parse(argv: list[str]) -> list[str]:
  """Parses flags; a wrong flag gives an error of one line instead of absl's usage text."""
  try:
    return flags.FLAGS(argv)
  except flags.Error as error:
    fail(error)


def fail(error: Exception) -> None:
  """Prints the error in one line, and exits with 1."""
  text = ' '.join(str(error).split()) or type(error).__name__
  print(f'error: {text}', file=sys.stderr)
  sys.exit(1)


def _use_compilation_cache(folder: str) -> None:
  """Sets JAX's compilation cache, with a separate default folder for each type of processor."""
  if jax.config.jax_compilation_cache_dir:
    return  # the environment has set it
  home = os.environ.get('XDG_CACHE_HOME') or pathlib.Path.home() / '.cache'
  with contextlib.suppress(OSError):
    # Compiled code may use instructions that another processor lacks, so the folder is named after
    # the model and the features of this one.
    first_core = pathlib.Path('/proc/cpuinfo').read_text().partition('\n\n')[0]
    features = [line for line in first_core.splitlines() if line.startswith(('flags', 'model'))]
    machine = f'{platform.machine()}-{zlib.crc32("".join(features).encode()):08x}'
    folder = folder or str(pathlib.Path(home) / 'twofold' / 'jax' / machine)
  if folder:
    jax.config.update('jax_compilation_cache_dir', folder)
    jax.config.update('jax_persistent_cache_min_compile_time_secs', 0.5)


@contextlib.contextmanager
def stop_on_signals() -> Iterator[Callable[[], bool]]:
  """Yields a function that tells whether SIGTERM or SIGINT was received; a second one kills."""
  received: list[int] = []

  def handle(number: int, frame) -> None:
    del frame
    # Only recorded: the loop saves between two calls, when the state is complete.
    received.append(number)
    signal.signal(number, previous[number])  # the next signal ends the process
    logging.info('%s: saving, then stopping', signal.Signals(number).name)

  previous = {number: signal.signal(number, handle) for number in (signal.SIGTERM, signal.SIGINT)}
  try:
    yield lambda: bool(received)
  finally:
    # Restored, so that signals after the command has finished are not swallowed.
    for number, handler in previous.items():
      signal.signal(number, handler)


def define_options_flag() -> flags.FlagHolder:
  """Defines --options; `parse_options` parses its value."""
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
  """[0.05, 0.1] from ['0.05', '0.1']: widths of power-function averages of the parameters.

  Raises:
    ValueError: for a width that is not a number.
  """
  try:
    return [float(item) for item in items]
  except ValueError:
    raise ValueError(f'--ema={",".join(items)}: write widths, such as 0.05,0.1') from None


def _join_brackets(items: list[str]) -> list[str]:
  """Joins items that the flag parser split inside brackets: 'times=(3.0', '1.0)'."""
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
