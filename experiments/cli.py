"""Shared code of all commands: errors, exit codes, signals, flags and their values, compile cache.

Exit codes: 0: finished; 1: failed, with one line that says why; 75: stopped by a signal after
saving, or by SIGTERM before the first step, so that the same command goes on; 130: stopped by
Ctrl-C; 141: the reader of a pipe has closed it, as `head` does.
"""

import ast
import contextlib
import itertools
import logging as std_logging
import os
import pathlib
import re
import signal
import sys
import traceback
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from absl import app, flags, logging

from common.checkpoints.checkpoints import CheckpointError
from common.config import suggestion
from common.devices.limits import OutOfMemoryError
from common.files import check_writable, in_bucket, local_path, to_path
from common.training.averages import MAX_WIDTH
from common.training.meters import TrainingError
from experiments.startup import compilation_cache
from experiments.startup.signals import interrupt

PACKAGES = ('autoregressive', 'common', 'configs', 'diffusion', 'experiments')
ROOT = pathlib.Path(__file__).parents[1]
INTERRUPTED, CLOSED_PIPE = 130, 141
# Errors that the user or the machine causes: their message says all that is needed.
EXPECTED = (ValueError, OSError, CheckpointError, OutOfMemoryError, TrainingError)
LONGEST = 600  # characters of an error message
LOG_FORMAT = std_logging.Formatter('%(asctime)s %(message)s', '%H:%M:%S')

flags.DEFINE_bool('debug', False, 'Show the full traceback of an error.')
flags.DEFINE_string(
  'compilation_cache', None, "Folder of JAX's compilation cache; default: in the user's cache."
)
flags.disclaim_key_flags()  # flags that are defined below belong to the command that asks for them


# Running a command.


def run(main: Callable[..., int | None], takes_arguments: bool = False) -> None:
  """Parses the flags, runs `main` and exits with its code (None: 0).

  Args:
    main: the command.
    takes_arguments: whether it takes arguments besides flags; `main` then receives them as a list.
  """
  for name in ('debug', 'compilation_cache'):
    # --help lists the flags of the command that was started.
    flags.FLAGS.register_key_flag_for_module(sys.argv[0], flags.FLAGS[name])
  with one_line_errors():
    if signal.getsignal(signal.SIGINT) != signal.SIG_IGN:
      signal.signal(signal.SIGINT, interrupt)
    app.run(_guarded(main, takes_arguments), flags_parser=_parse)


def _guarded(main: Callable[..., int | None], takes_arguments: bool) -> Callable[[list[str]], None]:
  """`main` as absl calls it."""

  def guarded(argv: list[str]) -> None:
    logging.set_verbosity(logging.INFO)
    logging.get_absl_handler().addFilter(_ours_or_serious)
    logging.get_absl_handler().setFormatter(LOG_FORMAT)
    with one_line_errors():
      if len(argv) > 1 and not takes_arguments:
        raise ValueError(f'unexpected argument {argv[1]!r}; write --name=value, see --help')
      compilation_cache.use(flags.FLAGS.compilation_cache)
      sys.exit((main(argv[1:]) if takes_arguments else main()) or 0)

  return guarded


@contextlib.contextmanager
def one_line_errors() -> Iterator[None]:
  """Turns any exception into one line and an exit code, unless --debug asks for the traceback."""
  try:
    try:
      yield
    finally:
      sys.stdout.flush()  # here, where an error still has a message
  except KeyboardInterrupt:
    print('interrupted', file=sys.stderr)
    sys.exit(INTERRUPTED)
  except BrokenPipeError:
    _discard_output()
    sys.exit(CLOSED_PIPE)
  except Exception as error:
    if flags.FLAGS.is_parsed() and flags.FLAGS.debug:
      raise
    fail(error)


def _discard_output() -> None:
  """Discards what standard output no longer takes, so that Python does not try again at its end."""
  try:
    sys.stdout.flush()
  except OSError:
    with open(os.devnull, 'w') as nowhere:
      os.dup2(nowhere.fileno(), sys.stdout.fileno())


def fail(error: Exception) -> None:
  """Prints the error in one line, and exits with 1."""
  _discard_output()  # a full disk may be what failed
  print(f'error: {message_of(error)}', file=sys.stderr)
  sys.exit(1)


def message_of(error: Exception) -> str:
  """The message of an error in one line; that of an unexpected one names its type and --debug."""
  text = ' '.join(str(error).split())
  if isinstance(error, OSError) and error.filename and error.strerror:
    text = f'{error.filename}: {error.strerror}'
  if 'allow_pickle' in text:  # numpy's advice would run code from the file
    text = 'the file must hold plain arrays in the format of numpy, not Python objects'
  shown = text if len(text) <= LONGEST else f'{text[:LONGEST]}…'
  if isinstance(error, MemoryError) or 'RESOURCE_EXHAUSTED' in text:  # of this machine, of a device
    return f'out of memory: ask for less, such as smaller batches or images. {shown}'.strip()
  if isinstance(error, EXPECTED) and shown and _is_ours(error):
    return shown
  return f'{type(error).__name__}: {shown or "no message"} (--debug shows where)'


def _is_ours(error: Exception) -> bool:
  """Whether our own code raised the error, or the operating system did."""
  frames = traceback.extract_tb(error.__traceback__)
  return isinstance(error, OSError) or not frames or _inside(frames[-1].filename)


def _inside(file: str) -> bool:
  """Whether a file belongs to our packages."""
  path = pathlib.Path(file)
  return path.is_relative_to(ROOT) and path.relative_to(ROOT).parts[0] in PACKAGES


def _ours_or_serious(record) -> bool:
  """Whether to show a log record: all of our own, but only warnings and errors of libraries."""
  return _inside(record.pathname) or record.levelno >= std_logging.WARNING


# Flags.


class PathParser(flags.ArgumentParser):
  """Paths on this machine, with `~` replaced by the home folder; URLs are refused."""

  def parse(self, argument: str) -> str:
    return local_path(argument)


class FolderParser(PathParser):
  """A folder, which may not exist yet."""

  def parse(self, argument: str) -> str:
    path = super().parse(argument)
    if os.path.exists(path) and not os.path.isdir(path):
      raise ValueError('is a file: write a folder')
    return path


class RunParser(FolderParser):
  """The folder of a run, which may also be in a bucket."""

  def parse(self, argument: str) -> str:
    path = to_path(argument)
    return str(path) if in_bucket(path) else super().parse(argument)


class OutFolderParser(FolderParser):
  """A folder to write to, checked before the work whose results it will hold."""

  def parse(self, argument: str) -> str:
    path = super().parse(argument)
    check_writable(pathlib.Path(path))
    return path


class OutParser(PathParser):
  """A file to write, checked before the work whose result it will hold."""

  def parse(self, argument: str) -> str:
    path = super().parse(argument)
    if os.path.isdir(path):
      raise ValueError('is a folder: write a file')
    check_writable(pathlib.Path(path).parent)
    return path


def define(
  name: str,
  help_text: str,
  parser: flags.ArgumentParser | None = None,
  required: bool = False,
) -> flags.FlagHolder:
  """Defines a flag of text, by default None.

  Args:
    name: its name.
    help_text: its help.
    parser: None: any text.
    required: whether the command refuses to run without it.
  """
  holder = flags.DEFINE(
    parser or flags.ArgumentParser(),
    name,
    None,
    help_text + (' (required)' if required else ''),
    serializer=flags.ArgumentSerializer(),
  )
  if required:
    flags.register_validator(name, _is_given, message=f'is missing: {help_text}')
  return holder


def _is_given(value: str | None) -> bool:
  return value is not None


HELP = {'--help', '-help', '-h', '-?', '--helpshort'}
PLAIN = {  # messages of absl, and plainer ones
  r'^flag --': '--',
  r"\('Non-boolean argument .*\)$": 'write true or false',
  r'invalid literal for int\(\).*$': 'write a whole number',
  r'could not convert string to float.*$': 'write a number',
}


def _parse(argv: list[str]) -> list[str]:
  """Parses flags; a wrong flag gives an error of one line instead of absl's usage text."""
  if not HELP.isdisjoint(itertools.takewhile('--'.__ne__, argv[1:])):
    print(help_text())
    sys.exit()
  try:
    rest = flags.FLAGS(argv)
  except flags.UnrecognizedFlagError as error:
    raise ValueError(_unknown_flag(error.flagname)) from None
  except flags.Error as error:
    # 'flag --workdir=None: is missing: …', 'flag --num=x: …'
    text = re.sub(r'^flag --([\w.]+)=None:', r'--\1', str(error), flags=re.MULTILINE)
    for pattern, replacement in PLAIN.items():
      text = re.sub(pattern, replacement, text, flags=re.MULTILINE)
    raise ValueError(text) from None
  for name, value in flags.FLAGS.flag_values_dict().items():
    if flags.FLAGS[name].present and value in ('', []):
      raise ValueError(
        f'--{name}= is empty: write a value, or leave the flag out. {flags.FLAGS[name].help}'
      )
  return rest


def help_text() -> str:
  """What --help prints: the docstring of the command, and its flags.

  absl's own --help takes each % of a docstring as a format, and exits with 1.
  """
  _, _, described = flags.FLAGS.main_module_help().partition(':\n')  # after the path of the file
  return f'{sys.modules["__main__"].__doc__.strip()}\n\nflags:\n\n{described.rstrip()}'


def _unknown_flag(name: str) -> str:
  """The message about an unknown flag, with the flags of this command."""
  known = [flag.name for flag in flags.FLAGS.get_key_flags_for_module(sys.argv[0])]
  first, dot, rest = name.partition('.')
  guess = suggestion(first, known).partition('known:')[0].strip()
  guess = re.sub(r"'(\w+)'", rf"'--\1{dot}{rest}'", guess)
  shown = ', '.join(f'--{flag}' for flag in sorted(known) if '.' not in flag)
  return ' '.join(filter(None, (f'unknown flag --{name};', guess, f'flags: {shown}')))


# Values of flags: lists of name=value.


class ItemsParser(flags.ArgumentParser):
  """Items separated by commas, where a comma in brackets or quotes separates nothing."""

  def parse(self, argument: str | list[str]) -> list[str]:
    return argument if isinstance(argument, list) else split_items(argument)


def define_items(name: str, help_text: str) -> flags.FlagHolder:
  """Defines a flag whose value is a list of items, by default empty."""
  return flags.DEFINE(ItemsParser(), name, [], help_text, serializer=flags.CsvListSerializer(','))


def split_items(text: str) -> list[str]:
  """['steps=3', 'times=(3.0, 1.0)'] from 'steps=3,times=(3.0, 1.0)'."""
  items, depth, quote, before = [''], 0, '', ','
  for char in text:
    if quote:
      quote = '' if char == quote else quote
    elif char in '\'"' and before in '=,([{: ':  # elsewhere it is an apostrophe
      quote = char
    depth += 0 if quote else (char in '([{') - (char in ')]}')
    if char == ',' and depth <= 0 and not quote:
      items.append('')
    else:
      items[-1] += char
    before = char
  return items if text.strip() else []


def parse_options(items: list[str], flag: str = 'options') -> dict[str, Any]:
  """{'steps': 20} from ['steps=20']; a value that is not a Python literal stays text.

  `flag` is the flag that holds the items, for messages.

  Raises:
    ValueError: for an item without '=', or a name that is given twice.
  """
  options = {}
  for item in items:
    name, equals, text = (part.strip() for part in item.partition('='))
    if not equals or not name:
      raise ValueError(f'--{flag}={item!r}: write name=value, such as steps=20')
    if name in options:
      raise ValueError(f'--{flag}: {name} is given twice; write it once')
    options[name] = parse_value(text)
  return options


def parse_component(items: list[str]) -> dict[str, Any] | None:
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


def parse_widths(items: list[str], stored: Sequence[float]) -> list[float]:
  """[0.05, 0.1] from ['0.05', '0.1']: widths of power-function averages of the parameters.

  Args:
    items: the texts.
    stored: the widths that the run stores.

  Raises:
    ValueError: for a width that is not a number in (0, 1/√12), or given twice; or for a run that
      stores no averages.
  """
  flag = f'--ema={",".join(items)}'
  try:
    widths = [float(item) for item in items]
  except ValueError:
    raise ValueError(f'{flag}: write widths, such as 0.05,0.1') from None
  if not all(0 < width < MAX_WIDTH for width in widths):
    raise ValueError(f'{flag}: a width must be in (0, {MAX_WIDTH:.4f})')
  if len(set(widths)) < len(widths):
    raise ValueError(f'{flag}: a width is given twice; write it once')
  if widths and not stored:
    raise ValueError(f'{flag}: the run stores no averages: train it with ema.widths=(0.05,0.1)')
  return widths


def parse_value(text: str) -> Any:
  """A Python literal, `true` or `false`; any other text stays text."""
  if text.lower() in ('true', 'false'):
    return text.lower() == 'true'
  if text.lstrip('+-').lower() in ('inf', 'nan'):
    return float(text)
  try:
    return ast.literal_eval(text)
  except (ValueError, SyntaxError, MemoryError, RecursionError):
    return text
