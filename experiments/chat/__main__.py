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

import pathlib
import time

import jax
from absl import flags, logging

from autoregressive.decoding.stepwise import Session
from autoregressive.method import build_model
from common import finetuning
from common.config import ConfigError
from experiments import cli, families, runs
from experiments.chat.conversation import Conversation, Format
from experiments.chat.talk import converse, settings_of, template_of
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


def main() -> None:
  converse(open_conversation(), LENGTH.value)


if __name__ == '__main__':
  cli.run(main)
