"""Completes functions of Python's standard library, and counts how many completions parse.

python -m experiments.completions --workdir=runs/smollm2 --num=100

Each function is given with its signature and docstring, and its body is drawn up to the line that
is less indented. The functions are from the test split of `data.name=python_code`, which a model
trained on it has not seen. The baseline is a character 5-gram model of the training split, drawn at
the same temperature.
"""

import pathlib

import numpy as np
from absl import flags

from common.data.builders.published.texts import PythonCode
from common.domains.base import SampleFlags, SampleSettings
from common.domains.text import continue_prompt
from common.evaluation.measures import proportion
from common.reporting.progress import reported
from common.text.character_ngrams import CharacterNgrams
from common.text.stops import Stops
from experiments import cli, runs
from experiments.completions.functions import Prompt, parses, prompts, split

WORKDIR = cli.define('workdir', 'Folder of a run on text; without it, only the baseline runs.')
NUM = flags.DEFINE_integer('num', 100, 'Number of functions.', lower_bound=1, upper_bound=10_000)
LENGTH = flags.DEFINE_integer('length', 160, 'The most tokens of a completion.', lower_bound=1)
TEMPERATURE = flags.DEFINE_float('temperature', 0.5, 'Of the draws.', lower_bound=0.01)
SHOW = flags.DEFINE_integer('show', 0, 'Number of completions to print.', lower_bound=0)
ORDER, CHARACTERS = 5, 600  # of the baseline: n, and the most characters of a completion
RULE = Stops(rule='dedent')


def complete(run: runs.Run, prompt: Prompt, seed: int) -> str:
  """A completion by a model."""
  # Of a prompt that is longer than the model's context, it sees the end.
  given = dict(prompt=prompt.given, length=LENGTH.value, slide=True)
  flags_of = SampleFlags(num=1, stop_at='dedent', **given)
  settings = SampleSettings(flags_of, seed, {'temperature': TEMPERATURE.value})
  return continue_prompt(run.trained, settings).texts[0][len(prompt.given) :]


def complete_by_ngrams(model: CharacterNgrams, prompt: Prompt, seed: int) -> str:
  """A completion by the baseline."""
  rng, drawn = np.random.default_rng(seed), ''
  while len(drawn) < CHARACTERS:
    drawn += model.draw((prompt.given + drawn)[-ORDER:], rng, TEMPERATURE.value)
    # Only a new character after a line break can be less indented.
    if drawn[-1] != '\n' and (end := RULE.end(prompt.given, drawn)) is not None:
      return drawn[:end]
  return drawn


def report(name: str, found: list[tuple[Prompt, str]]) -> None:
  """Prints the share of completions that parse, with its 95 % interval."""
  hits = sum(parses(prompt.given, text) for prompt, text in found)
  value, _, (low, high) = proportion(hits, len(found))
  print(f'{name}: {hits} of {len(found)} completions parse, {value:.3f} ({low:.3f} to {high:.3f})')
  for prompt, text in found[: SHOW.value]:
    verdict = 'parses' if parses(prompt.given, text) else 'does not parse'
    print(f'--- {prompt.name} ({verdict})\n{prompt.given}{text}')


def main() -> None:
  documents, _ = PythonCode.documents()
  parts = split(documents)
  asked = prompts(parts['test'], NUM.value)
  print(
    f'{len(asked)} functions of {len(parts["test"])} files; {len(parts["train"])} files for the '
    'baseline'
  )
  model = CharacterNgrams(ORDER, [one.text for one in parts['train']])
  report(
    f'character {ORDER}-gram', [(p, complete_by_ngrams(model, p, i)) for i, p in enumerate(asked)]
  )
  if WORKDIR.value:
    run = runs.load(pathlib.Path(WORKDIR.value))
    asked = reported(asked, len(asked), 'completions')
    found = [(prompt, complete(run, prompt, i)) for i, prompt in enumerate(asked)]
    report(f'{WORKDIR.value}, step {run.step}', found)


if __name__ == '__main__':
  cli.run(main)
