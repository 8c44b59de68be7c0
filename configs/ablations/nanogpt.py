"""nanoGPT's character models on tinyshakespeare, next to the published losses.

twofold ablate --study=configs/ablations/nanogpt.py:cpu --workdir=runs/nanogpt

tinyshakespeare.txt, of karpathy/char-rnn, must lie in the folder where the command is called.

Scales: cpu (the small model, three seeds), gpu (the large one, three seeds), smoke (a tiny model on
Shakespeare's plays; nothing is learned). smoke needs, once:

  twofold prepare_data --dataset=shakespeare --shift --held_out=validation

Reproduces: README.md of karpathy/nanoGPT, validation losses of shakespeare_char: 1.88 on a CPU and
1.4697 on a GPU, in nats per character.

To expect for cpu: docs/results/nanogpt.md. gpu is not measured yet.
"""

from typing import Any

from common.config import pick
from common.studies.claims import Claim
from common.studies.plans import Row, Study

CONFIG = 'configs/papers/nanogpt.py:shakespeare_char'
SMALL, LARGE = 'small model, context 64', 'large model, context 256'
BASES = {SMALL: f'{CONFIG}_cpu', LARGE: CONFIG}
PUBLISHED = {SMALL: 1.88, LARGE: 1.4697}
# The repository's evaluation: 20 random batches of 12 windows on a CPU, and 200 of 64.
OWN = '{}, some windows'
EXAMPLES = {SMALL: 20 * 12, LARGE: 200 * 64}
# Largest difference from the published loss, as a share of it.
WITHIN = {SMALL: 0.016, LARGE: 0.014}
TEXT = {'data.source': 'tinyshakespeare.txt', 'train.sample_every': '0'}
SMOKE = {
  'data.name': 'shakespeare',
  'network.width': 16,
  'network.layers': 1,
  'network.heads': 2,
  'optimizer.warmup': '1',
  'train.steps': '4',
  'train.steps_per_call': 2,
  'train.sample_every': '0',
}
SCALES: dict[str, dict[str, Any]] = {
  'cpu': dict(models=(SMALL,), config=TEXT, seeds=(0, 1, 2)),
  'gpu': dict(models=(LARGE,), config=TEXT, seeds=(0, 1, 2)),
  'smoke': dict(models=(SMALL,), config=SMOKE, seeds=(0,)),
}


def get_study(scale: str = 'cpu') -> Study:
  """The study at a scale, a key of SCALES."""
  chosen = pick(SCALES, scale, 'scale')
  rows, published, claims = [], {}, []
  for model in chosen['models']:
    for name, number in ((model, 0), (OWN.format(model), EXAMPLES[model])):
      cell = (name, 'best_validation_loss')
      rows.append(Row(name, {'train.evaluate_examples': number}, base=BASES[model]))
      published[cell] = PUBLISHED[model]
      text = f'the loss is the published one, within {WITHIN[model]:.1%}: {name}'
      claims.append(Claim(text, cell, near=PUBLISHED[model], within=WITHIN[model]))
  return Study(
    name='nanogpt',
    title="nanoGPT's character models",
    about=(
      'The published loss is the least of the evaluations every 250 steps, each on some random '
      'windows of the last tenth of the text, as in the rows of some windows. In the others each '
      'evaluation covers all of it.'
    ),
    base=CONFIG,
    scale=scale,
    paper='karpathy/nanoGPT, README.md',
    config=chosen['config'],
    rows=tuple(rows),
    metrics=(
      'best_validation_loss',
      'validation_loss',
      'parameters',
      'training_flops',
      'training_seconds',
    ),
    published=published,
    claims=tuple(claims),
    seeds=chosen['seeds'],
  )
