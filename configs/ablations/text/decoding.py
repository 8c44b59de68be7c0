"""Ways to decode one model: the likeliest text, or a likely one?

twofold ablate --study=configs/ablations/text/decoding.py:cpu --workdir=runs/decoding

tinyshakespeare.txt, of karpathy/char-rnn, must lie in the folder where the command is called.

Scales: cpu (nanoGPT's small model at a context of 256 characters), gpu (its large one), paper
(GPT-2 of 124M parameters trained on a text of your own, openwebtext.txt, with the published
vocabulary in gpt2/; 5,000 samples of 200 tokens), smoke (a tiny model on Shakespeare's plays;
nothing is learned). smoke needs, once:

  twofold prepare_data --dataset=shakespeare --shift --held_out=validation

Reproduces: the form of table 1 of Holtzman et al. 2020, whose model is GPT-2 Large, on words. Its
perplexity is of texts that continue a prompt; here samples begin with a single token. Its
repetition is the share of samples that end in a loop. HUSE needs people and is left out.

To expect: not measured yet.
"""

from typing import Any

from common.config import pick
from common.studies.claims import Claim
from common.studies.plans import Row, Study
from configs.ablations.nanogpt import CONFIG, SMOKE, TEXT

HUMAN, GREEDY, BEAMS, PURE = 'human', 'greedy', 'beam search, 16', 'sampling'
NUCLEUS = 'nucleus, 0.95'
WAYS: dict[str, dict[str, Any]] = {
  GREEDY: dict(greedy=True),
  BEAMS: dict(beams=16),
  PURE: {},
  'temperature 0.7': dict(temperature=0.7),
  NUCLEUS: dict(top_p=0.95),
  'nucleus, 0.9': dict(top_p=0.9),
}
CHARACTERS = {'top 5': dict(top_k=5), 'top 5, temperature 0.7': dict(top_k=5, temperature=0.7)}
WORDS = {
  'top 40': dict(top_k=40),
  'top 640': dict(top_k=640),
  'top 40, temperature 0.7': dict(top_k=40, temperature=0.7),
}
METRICS = ('sample_perplexity', 'self_bleu', 'zipf', 'looping', 'repetition', 'perplexity')
# Perplexity, self-BLEU, Zipf coefficient and share of loops; None: not printed. The perplexity of
# human text is that of the model's test split: the same number for every way.
PUBLISHED: dict[str, tuple[float | None, ...]] = {
  HUMAN: (None, 0.31, 0.93, 0.0028),
  GREEDY: (1.50, 0.50, None, 0.7366),
  BEAMS: (1.48, 0.44, 0.94, 0.2894),
  PURE: (22.73, 0.28, 0.93, 0.0022),
  NUCLEUS: (13.13, 0.32, 0.95, 0.0036),
  'top 40': (6.88, 0.39, None, 0.0078),
  'top 640': (13.82, 0.32, 0.96, 0.0028),
  'top 40, temperature 0.7': (3.48, None, None, 0.0886),
}
PUBLISHED_PERPLEXITY = 12.38  # of human text
SCALES: dict[str, dict[str, Any]] = {
  'cpu': dict(
    base=f'{CONFIG}_cpu',
    config=TEXT | {'data.context': 256, 'evaluation.num_samples': 256, 'evaluation.batch_size': 64},
    ways=WAYS | CHARACTERS,
  ),
  'gpu': dict(base=CONFIG, config=TEXT | {'evaluation.num_samples': 1000}, ways=WAYS | CHARACTERS),
  'paper': dict(
    base='configs/papers/nanogpt.py:gpt2',
    config={
      'data.source': 'openwebtext.txt',
      'data.tokenizer_files': 'gpt2',
      'evaluation.num_samples': 5000,
      'sampling.length': 201,
    },
    ways=WAYS | WORDS,
  ),
  'smoke': dict(
    base=f'{CONFIG}_cpu',
    config=SMOKE | {'data.context': 16, 'evaluation.num_samples': 4, 'evaluation.batch_size': 4},
    ways={name: WAYS[name] for name in (GREEDY, PURE, NUCLEUS)} | {BEAMS: dict(beams=2)},
  ),
}


def get_study(scale: str = 'cpu') -> Study:
  """The study at a scale, a key of SCALES."""
  chosen = pick(SCALES, scale, 'scale')
  rows = [Row(HUMAN, baseline='real')]
  rows += [Row(name, sampling=options) for name, options in chosen['ways'].items()]
  names = {row.name for row in rows}
  published = {
    (name, metric): value
    for name, cells in PUBLISHED.items()
    for metric, value in zip(METRICS, cells, strict=False)
    if value is not None and name in names
  }
  published |= {(name, 'perplexity'): PUBLISHED_PERPLEXITY for name in chosen['ways']}
  return Study(
    name='decoding',
    title='Ways to decode one model',
    about=(
      'One model, and samples of it by each way. Samples of a good way are as surprising to the '
      'model as human text is, which the last column has, and as varied. The row of human text is '
      'of as many windows of the evaluated split.'
    ),
    base=chosen['base'],
    scale=scale,
    paper='Holtzman et al. 2020, table 1',
    config=chosen['config'],
    rows=tuple(rows),
    metrics=METRICS,
    published=published,
    published_as=dict.fromkeys(METRICS, 'GPT-2 Large, words'),
    claims=_claims(),
  )


def _claims() -> tuple[Claim, ...]:
  """What the paper says of its table."""
  perplexity, human = 'sample_perplexity', (PURE, 'perplexity')
  likely = (GREEDY, BEAMS)
  return (
    *(
      Claim(
        f'text by {name} is less than half as surprising as human text',
        (name, perplexity),
        below=human,
        times=0.5,
      )
      for name in likely
    ),
    *(
      Claim(
        f'text by {name} ends in loops more often than human text',
        (name, 'looping'),
        above=(HUMAN, 'looping'),
      )
      for name in likely
    ),
    Claim('a sample is more surprising than human text', (PURE, perplexity), above=human),
    Claim(
      'nucleus sampling is less surprising than sampling',
      (NUCLEUS, perplexity),
      below=(PURE, perplexity),
    ),
    Claim(
      'the perplexity of nucleus sampling is that of human text, within 20 %',
      (NUCLEUS, perplexity),
      near=human,
      within=0.2,
    ),
    Claim(
      'texts by nucleus sampling are more varied than greedy ones: their self-BLEU is lower',
      (NUCLEUS, 'self_bleu'),
      below=(GREEDY, 'self_bleu'),
    ),
  )
