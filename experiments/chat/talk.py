"""What a chat does with the lines that it reads: turns, commands and Ctrl-C."""

import contextlib
import json
import pathlib
import signal
import sys
import time
from collections.abc import Iterator, Mapping
from typing import Any

from absl import logging

from autoregressive.decoding.settings import DecodingSettings, build_settings
from common.config import ConfigError
from common.data.tokenizers import chat_template
from common.data.tokenizers.chat_template import ChatTemplate
from common.domains.text import printable
from common.files import check_writable
from experiments import cli, families
from experiments.chat.conversation import Conversation

# Options of sampling that a conversation cannot serve.
REFUSED = ('guidance', 'beams', 'length_penalty', 'length', 'stop', 'slide', 'draft_ahead')
COMMANDS = ('/reset', '/save FILE', '/quit')
PROMPT = '> '


class Interrupts:
  """What Ctrl-C does: during a reply it is remembered, otherwise it raises KeyboardInterrupt."""

  def __init__(self):
    self.replying = self.pressed = False
    signal.signal(signal.SIGINT, self._press)

  def _press(self, number: int, frame: Any) -> None:
    del number, frame
    if not self.replying:
      raise KeyboardInterrupt
    self.pressed = True

  def seen(self) -> bool:
    """Whether Ctrl-C was pressed during this reply."""
    return self.pressed


def settings_of(config: Mapping[str, Any], options: Mapping[str, Any]) -> DecodingSettings:
  """The settings of decoding. Raises ConfigError for options that a chat does not take."""
  if config['family'] != 'autoregressive':
    raise ConfigError(f'a chat needs a model of text, and the run is of {config["family"]} models')
  families.check_options(config, options)
  for name in REFUSED:
    if name in options:
      raise ConfigError(f'option {name} is not for chats: use --length, or twofold sample')
  kept = {name: value for name, value in config['sampling'].items() if name not in REFUSED}
  with families.naming_options(options):
    return build_settings(kept, **options)


def template_of(workdir: str, path: str | None) -> ChatTemplate:
  """The chat template of --template, or of the run.

  Raises:
    ConfigError: there is none, or the file cannot be read.
  """
  found = chat_template.read(workdir)
  if path is not None:
    return chat_template.read_file(pathlib.Path(path))
  if found is None:
    raise ConfigError(
      f'{workdir} has no chat template ({chat_template.TEMPLATE}), so it was not made for chats: '
      'give one with --template=FILE, or continue a text: twofold sample --prompt=TEXT --stream'
    )
  return found


def turns(interrupts: Interrupts) -> Iterator[str]:
  """The lines that are typed, or those of a pipe, without empty ones."""
  typed = sys.stdin.isatty()
  while True:
    interrupts.replying = False
    try:
      line = typed_line() if typed else sys.stdin.readline()
    except KeyboardInterrupt:
      if not typed:
        raise
      print('\nCtrl-D or /quit ends the program', flush=True)
      continue
    except UnicodeDecodeError as error:
      raise ConfigError(f'the turns must be UTF-8 text: {error}') from error
    if not line or line.strip() == '/quit':
      return
    if line.strip():
      interrupts.replying, interrupts.pressed = True, False
      if not typed:  # so that the output is a transcript
        print(f'{PROMPT}{printable(line.strip())}', flush=True)
      yield line.strip()


def typed_line() -> str:
  """A line from a terminal, with its line break; '' at its end."""
  with contextlib.suppress(ImportError):  # not on Windows
    import readline  # noqa: F401  (lines can be edited, and earlier ones called back)
  try:
    return input(PROMPT) + '\n'
  except EOFError:
    print()
    return ''


def command(line: str, talk: Conversation) -> None:
  """Obeys a line that begins with /. Raises ValueError for one that is unknown or impossible."""
  name, _, rest = line.partition(' ')
  if name == '/reset' and not rest:
    talk.reset()
    print('the conversation is forgotten')
  elif name == '/save' and rest.strip():
    save(talk, pathlib.Path(rest.strip()).expanduser())
  else:
    raise ValueError(f'{line!r:.60} is no command; commands: {", ".join(COMMANDS)}')


def save(talk: Conversation, path: pathlib.Path) -> None:
  """Adds the conversation to a file, as one line of JSON."""
  check_writable(path.parent)
  with path.open('a', encoding='utf-8') as file:
    file.write(json.dumps({'messages': talk.messages}, ensure_ascii=False) + '\n')
  print(f'{len(talk.messages)} messages added to {path}')


def answer(line: str, talk: Conversation, interrupts: Interrupts, length: int) -> None:
  """Prints the reply to a turn, of at most `length` tokens, while it is drawn."""
  start, times = time.perf_counter(), []
  if forgotten := talk.ask(line):
    print(
      f'(the context of {talk.session.context} tokens is full: the first {forgotten} turns are '
      'forgotten; /reset starts anew)'
    )
  for piece in talk.reply(length, interrupts.seen):
    times.append(time.perf_counter())
    print(printable(piece), end='', flush=True)
  print(flush=True)
  if interrupts.pressed:
    print('(interrupted)')
  elif not talk.session.left:
    print(f'(the context of {talk.session.context} tokens is full: the reply ends here)')
  rate = (len(times) - 1) / max(times[-1] - times[0], 1e-9)
  logging.info('first token after %.1f s, then %.1f tokens/s', times[0] - start, rate)


def converse(talk: Conversation, length: int) -> None:
  """Answers turns until they end; a reply has at most `length` tokens."""
  interrupts = Interrupts()
  for line in turns(interrupts):
    try:
      if line.startswith('/'):
        command(line, talk)
      else:
        answer(line, talk, interrupts, length)
    except (ValueError, OSError) as error:  # of one turn: the conversation goes on
      print(f'error: {cli.message_of(error)}', file=sys.stderr, flush=True)
