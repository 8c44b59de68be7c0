"""Positions beyond the length of training: a transformer trained at L, evaluated at L, 2 L and 4 L.

twofold ablate --study=configs/ablations/text/positions.py:cpu --workdir=runs/lengths

tinyshakespeare.txt, of karpathy/char-rnn, must lie in the folder where the command is called.

Scales: cpu (nanoGPT's small model, context 64, three seeds), gpu (its large one, context 256, three
seeds), paper (as gpu, at contexts of 512 and six times as many, for the published cells), smoke (a
tiny model on Shakespeare's plays; nothing is learned). smoke needs, once:

  twofold prepare_data --dataset=shakespeare --shift --held_out=validation

Reproduces: the question of Press, Smith & Lewis 2022 (ALiBi), figure 1 and its tables: does a model
that is trained on short sequences predict long ones? Their models have 247M parameters and words of
WikiText-103; the published cells, perplexities of its development set, are of another text, of
windows that do not overlap, as here. A table of learned positions cannot be evaluated beyond its
length.

To expect for cpu: docs/results/lengths.md.
"""

from typing import Any

from common.config import pick
from common.studies.claims import Claim
from common.studies.plans import Row, Study
from configs.ablations.nanogpt import CONFIG, SMOKE, TEXT

LEARNED = 'learned'
EXTRAPOLATING = ('sinusoidal', 'rotary', 'alibi', 'none')
TIMES = (1, 2, 4)
# Trained at 3,072 words and evaluated there; and ALiBi trained at 512.
LONGEST = 6
PUBLISHED = {
  ('sinusoidal', LONGEST, LONGEST): 18.67,
  ('rotary', LONGEST, LONGEST): 18.57,
  ('alibi', LONGEST, LONGEST): 17.60,
  ('alibi', 1, LONGEST): 18.40,
}
NATS = 'nats_per_position'
SCALES: dict[str, dict[str, Any]] = {
  'cpu': dict(base=f'{CONFIG}_cpu', context=64, config=TEXT, seeds=(0, 1, 2)),
  'gpu': dict(base=CONFIG, context=256, config=TEXT, seeds=(0, 1, 2)),
  'paper': dict(base=CONFIG, context=512, config=TEXT, seeds=(0, 1, 2), trained=(1, LONGEST)),
  'smoke': dict(
    base=f'{CONFIG}_cpu',
    context=16,
    config=SMOKE,
    positions=('rotary', 'alibi'),
    seeds=(0,),
  ),
}


def row_name(positions: str, trained: int, times: int) -> str:
  """The name of a row: lengths in multiples of the study's context."""
  at = f'{positions}, at {times} L' if times > 1 else f'{positions}, at L'
  return at if trained == 1 else f'{at}, trained there'


def row(positions: str, context: int, trained: int, times: int) -> Row:
  """A model trained at `trained` times the context and evaluated at `times` times it."""
  config: dict[str, Any] = {'network.positions': positions, 'data.context': trained * context}
  if times != trained:
    config['evaluation.context'] = times * context
  name = positions if trained == 1 else f'{positions}, trained at {trained} L'
  place = name, f'{times} L' if times > 1 else 'L'
  return Row(row_name(positions, trained, times), config, at=place)


def get_study(scale: str = 'cpu') -> Study:
  """The study at a scale, a key of SCALES."""
  chosen = pick(SCALES, scale, 'scale')
  context, positions = chosen['context'], chosen.get('positions', EXTRAPOLATING)
  longest = LONGEST in chosen.get('trained', (1,))
  times = (1, LONGEST) if longest else TIMES
  rows = [row(LEARNED, context, 1, 1)]
  rows += [row(name, context, 1, n) for name in positions for n in times]
  if longest:
    rows += [row(name, context, LONGEST, LONGEST) for name in positions]
  names = {row.name for row in rows}
  published = {(row_name(*key), 'perplexity'): value for key, value in PUBLISHED.items()}
  return Study(
    name='lengths',
    title='Positions beyond the length of training',
    about=(
      f'Models are trained on windows of L = {context} characters. At n L, n windows are joined '
      'into one, so that the same characters are predicted from more characters before them: a '
      'model that uses them has a lower perplexity than at L, and one that is disturbed by them a '
      'higher one.'
    ),
    base=chosen['base'],
    scale=scale,
    paper='Press, Smith & Lewis 2022',
    config=chosen['config'],
    rows=tuple(rows),
    axes=('positions', 'length'),
    metrics=('perplexity', NATS, 'parameters'),
    published={cell: value for cell, value in published.items() if cell[0] in names},
    published_as={'perplexity': 'perplexity of words of WikiText-103'},
    claims=_claims(positions, times),
    seeds=chosen['seeds'],
  )


def _claims(positions: tuple[str, ...], times: tuple[int, ...]) -> tuple[Claim, ...]:
  """That ALiBi gains or keeps what longer windows offer, and the others lose."""
  claims = []
  for n in times[1:]:
    alibi = row_name('alibi', 1, n), NATS
    others = tuple(row_name(name, 1, n) for name in positions if name != 'alibi')
    claims += [
      Claim(
        f'ALiBi is at most 1 % worse at {n} L than at L',
        alibi,
        below=(row_name('alibi', 1, 1), NATS),
        times=1.01,
      ),
      Claim(f'ALiBi is the best at {n} L', alibi, below=(others, NATS)),
    ]
    claims += [
      Claim(
        f'{name} positions are worse at {n} L than at L',
        (row_name(name, 1, n), NATS),
        above=(row_name(name, 1, 1), NATS),
      )
      for name in positions
      if name in ('sinusoidal', 'rotary')
    ]
  return tuple(claims)
