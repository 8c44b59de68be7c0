"""Talks with a language model that has a chat template, such as one that `convert` has read.

twofold chat --workdir=runs/smollm2
twofold chat --workdir=runs/smollm2 --system="You are a pirate." --options=temperature=0.2
twofold chat --workdir=runs/smollm2 < turns.txt

A reply is printed while it is drawn. Ctrl-C ends the reply, and not the program; Ctrl-D or /quit
ends the program. From a pipe or a file, each line is a turn. A line that begins with / is a
command:

  /reset      forgets the conversation, but not --system
  /save FILE  adds the conversation to FILE, in the format that data.name=dialogues reads
  /quit       ends the program

The cache of the model is kept from turn to turn, so only what is new is processed. When the context
is full, the oldest turns are forgotten, and a line says so.
"""

import contextlib
import json
import pathlib
import signal
import sys
import time
from collections.abc import Iterator, Mapping
from typing import Any

import jax
from absl import flags, logging

from autoregressive.decoding.settings import DecodingSettings, build_settings
from autoregressive.decoding.stepwise import Session
from autoregressive.method import build_model
from common import finetuning
from common.config import ConfigError
from common.data.tokenizers import chat_template
from common.data.tokenizers.chat_template import ChatTemplate
from common.domains.text import printable
from common.files import check_writable
from experiments import cli, families, runs
from experiments.chat.conversation import Conversation, Format
from experiments.startup.workdir import config_of

WORKDIR = cli.define('workdir', 'Folder of the run.', cli.FolderParser(), required=True)
STEP = flags.DEFINE_string('step', 'last', "Checkpoint: 'last', 'best' or a number.")
SYSTEM = cli.define('system', 'A system message that comes before all turns.')
TEMPLATE = cli.define(
  'template', 'File with a chat template in Jinja, instead of that of the run.', cli.PathParser()
)
LENGTH = flags.DEFINE_integer(
  'length', 1000, 'The most tokens of a reply.', lower_bound=1, upper_bound=10**6
)
SEED = flags.DEFINE_integer(
  'seed', 0, 'Determines all random numbers.', lower_bound=0, upper_bound=2**32 - 1
)
OPTIONS = cli.define_items('options', families.options_help())
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


def open_conversation() -> Conversation:
  """The model of --workdir, and an empty conversation with it."""
  start, workdir = time.perf_counter(), WORKDIR.value
  # All that may be refused comes before the parameters are read.
  settings = settings_of(config_of(pathlib.Path(workdir)), cli.parse_options(OPTIONS.value))
  step, template = runs.parse_step(STEP.value), template_of(workdir, TEMPLATE.value)
  run = runs.open_run(workdir)
  if run.data.spec.tokenizer is None:
    raise ConfigError(f'a chat needs a model of text with a tokenizer; {workdir} has none')
  form = Format(template, run.data.spec.tokenizer)
  if SYSTEM.value:
    form.encode([{'role': 'system', 'content': SYSTEM.value}, {'role': 'user', 'content': 'a'}])
  logging.info('reading %s', workdir)
  run = runs.with_params(run, workdir, step)
  _, model = build_model(run.config, run.data.spec)
  params = finetuning.plain(run.params, run.config)
  session = Session(model, run.trained.context, params, settings, jax.random.key(SEED.value))
  logging.info('%s of %s, read in %.1f s', run.about, workdir, time.perf_counter() - start)
  return Conversation(form, session, SYSTEM.value or '')


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


def main() -> None:
  converse(open_conversation(), LENGTH.value)


if __name__ == '__main__':
  cli.run(main)
