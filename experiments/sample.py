"""Draws samples from a trained model: a picture, texts, music or forecasts; or edits test images.

twofold sample --workdir=runs/digits --num=100 --out=samples.png
twofold sample --workdir=runs/digits --label=3 --options=steps=5,guidance=2.0
twofold sample --workdir=runs/digits --classifier_from=runs/classifier --options=classifier=2.0
twofold sample --workdir=runs/digits --task=inpaint --mask=left --out=inpainted.png
twofold sample --workdir=runs/pixels --options=beams=4
twofold sample --workdir=runs/pixels --draft=runs/small --options=draft_ahead=6
twofold sample --workdir=runs/shakespeare --prompt="To be, " --length=500 --num=2
twofold sample --workdir=runs/shakespeare --prompt="To be, " --stream --stop="ROMEO" --stop="JULIET"
twofold sample --workdir=runs/python --prompt_file=half.py --stop_at=dedent
twofold sample --workdir=runs/retail --num=6 --draws=200 --out=forecasts.png
twofold sample --workdir=runs/retail --out=quantiles.csv
twofold sample --workdir=runs/retail --horizon=18 --out=forecast.csv
twofold sample --workdir=runs/retail --on=newer.csv --future=prices.csv --out=forecast.png
twofold sample --workdir=runs/chorales --length=256 --out=chorale.mid
twofold sample --workdir=runs/chorales --prompt=beginning.mid --out=chorales.png

Tasks of a diffusion model: inpaint, repaint, colourise, sdedit, reconstruct, interpolate, and
trajectory, which shows one sample at several times from noise to data. The only task of an
autoregressive model is complete: it generates the rest of an image in its own order (--mask=bottom:
the upper half is given).

--draft uses speculative decoding (Leviathan et al. 2023): a smaller run proposes tokens, which the
run itself accepts or replaces. The distribution of samples is the same as without a draft.
"""

import pathlib
import tempfile
from typing import Any

from absl import flags, logging

from common.domains import DOMAINS, domain_of
from common.domains.base import COUNTS, SampleFlags, SampleSettings
from common.files import check_writable, to_path
from experiments import cli, families, runs
from experiments.startup import guides, processes
from experiments.startup.workdir import config_of

WORKDIR = cli.define(
  'workdir', 'Folder of the run, or gs://BUCKET/FOLDER.', cli.RunParser(), required=True
)
STEP = flags.DEFINE_string('step', 'last', "Checkpoint: 'last', 'best' or a number.")
OUT = cli.define(
  'out',
  'File to write; its ending decides the format. '
  + '; '.join(f'{domain.noun}: {", ".join(domain.suffixes)}' for domain in DOMAINS.values())
  + '. A .npy holds raw values. By default samples.png; texts are only printed.',
  cli.OutParser(),
)
SEED = flags.DEFINE_integer(
  'seed', 0, 'Determines all random numbers.', lower_bound=0, upper_bound=2**32 - 1
)
DRAFT = cli.define('draft', 'WORKDIR of a smaller run that drafts; see above.', cli.RunParser())
WEAK = cli.define(
  'weak', 'WORKDIR[@STEP] of a weaker model with the same network, for --options=guidance=W.'
)
CLASSIFIER = cli.define('classifier_from', guides.HELP)
EMA = flags.DEFINE_list('ema', [], 'Width of the average to sample from; the run needs ema.widths.')
OPTIONS = cli.define_items('options', families.options_help())
DISTRIBUTED, TIMEOUT = processes.define()


def _help(name: str) -> str:
  """The meaning of a flag for each kind of data that accepts it; defaults in brackets."""
  meanings = {domain.noun: domain.flags.get(name) for domain in DOMAINS.values()}
  return '; '.join(f'{noun}: {meaning}' for noun, meaning in meanings.items() if meaning) + '.'


# The domain of the data decides about the meaning, default and validity of these flags.
TEXT_FLAGS = ('label', 'task', 'mask', 'prompt', 'stop_at', 'on', 'future')
SAMPLE_FLAGS = (
  *(flags.DEFINE_string(name, None, _help(name)) for name in TEXT_FLAGS),
  flags.DEFINE_multi_string('stop', None, _help('stop')),
  *(
    flags.DEFINE_integer(name, None, _help(name), lower_bound=1, upper_bound=largest)
    for name, largest in COUNTS.items()
  ),
  *(flags.DEFINE_bool(name, None, _help(name)) for name in ('slide', 'stream', 'all_draws')),
)
PROMPT_FILE = cli.define(
  'prompt_file',
  'Text file whose contents are the prompt, but for one line break at its end: models draw it '
  'together with what follows.',
  cli.PathParser(),
)


def check() -> tuple[dict[str, Any], list[float], str | int]:
  """The options, the width of --ema and the step; checks what needs no data."""
  config = config_of(to_path(WORKDIR.value))
  options, step = cli.parse_options(OPTIONS.value), runs.parse_step(STEP.value)
  families.check_options(config, options)
  widths = cli.parse_widths(EMA.value, config['ema']['widths'])
  if len(widths) > 1:
    raise ValueError('--ema takes one width here; twofold evaluate compares several')
  if WEAK.value is not None:
    runs.check_weak(config, WEAK.value)
  if CLASSIFIER.value is not None:
    guides.check(config, CLASSIFIER.value, options)
  if DRAFT.value:
    runs.check_draft(config, config_of(to_path(DRAFT.value)))
  return options, widths, step


def main() -> None:
  with processes.joined(DISTRIBUTED.value, TIMEOUT.value) as writes:
    if writes:
      draw()
    else:  # all processes take part; what the others write is for nobody
      with tempfile.TemporaryDirectory() as folder:
        draw(pathlib.Path(folder))


def prompt_of(path: str, prompt: str | None) -> str:
  """The contents of --prompt_file. Raises ValueError next to a --prompt, or if it is not text."""
  if prompt is not None:
    raise ValueError('--prompt and --prompt_file both give a prompt: remove one of them')
  try:
    return pathlib.Path(path).read_text('utf-8').removesuffix('\n')
  except UnicodeDecodeError as error:
    raise ValueError(f'--prompt_file={path} must be UTF-8 text: {error}') from error


def draw(folder: pathlib.Path | None = None) -> None:
  """Draws samples as the flags say; into `folder`, if there is one, instead of that of --out."""
  options, widths, step = check()
  run = runs.open_run(WORKDIR.value)
  given = {flag.name: flag.value for flag in SAMPLE_FLAGS}
  if PROMPT_FILE.value is not None:
    given['prompt'] = prompt_of(PROMPT_FILE.value, given['prompt'])
  flags = SampleFlags(**given)
  domain = domain_of(run.data.spec)
  name = OUT.value or domain.default_out
  out = pathlib.Path(name) if name else None
  domain.check_flags(run.data.spec, flags, out)
  if out is not None:
    out = out if folder is None else folder / out.name
    check_writable(out.parent)  # also of a default
  if DRAFT.value:
    run = runs.with_draft(run, runs.load(DRAFT.value))
  plain, guide = run, None
  if CLASSIFIER.value is not None:
    guide = guides.load(run, CLASSIFIER.value, options)
    run = guides.guided(run, guide)
  # The whole request is checked before the model's parameters are read.
  weak = {} if WEAK.value is None else {'weak': WEAK.value}
  with families.naming_options(options):
    domain.check(run.trained, SampleSettings(flags, SEED.value, options | weak), out)
  run = runs.with_params(plain, WORKDIR.value, step)
  for width in widths:
    run = runs.with_average(run, WORKDIR.value, width)
  if weak:
    weak['weak'] = runs.load_weak(run, WEAK.value)
  if guide is not None:
    run = guides.guided(run, guide)
  with run.sampling_memory():
    message = domain.sample(run.trained, SampleSettings(flags, SEED.value, options | weak), out)
  print(message)
  logging.info('%s of %s', run.about, WORKDIR.value)


if __name__ == '__main__':
  cli.run(main)
