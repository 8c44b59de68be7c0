"""Command lines that cannot work: one line that says why, exit code 1, and nothing written."""

import pytest

from common.config import ConfigError, to_json
from experiments import families
from tests.experiments.commands import ended

DIGITS = '--config=configs/diffusion/images.py:digits'
SOLVERS = '--study=configs/ablations/solvers.py'
REFUSED = [  # (command, flags, a part of its message); NEW is a folder that does not exist
  ('train', '', '--workdir is missing: give the folder of the run'),
  ('train', '--workdir=NEW', '--config is missing; give a file such as'),
  ('train', '--workdir= ' + DIGITS, '--workdir= is empty'),
  ('train', '--workdir=NEW --config=', '--config= is empty'),
  ('train', '--wrkdir=NEW', "unknown flag --wrkdir; did you mean '--workdir'?"),
  ('train', '--confg.seed=3 --workdir=NEW', "did you mean '--config.seed'?"),
  ('train', '--workdir=NEW extra', "unexpected argument 'extra'; write --name=value"),
  ('train', '--workdir=NEW --fresh=perhaps', '--fresh=perhaps: write true or false'),
  ('train', '--workdir=README.md ' + DIGITS, '--workdir=README.md: is a file: write a folder'),
  ('train', '--workdir=gs://bucket ' + DIGITS, 'must name a bucket and a folder in it: gs://'),
  ('train', '--workdir=~nobody_at_all/x ' + DIGITS, 'has no home folder ~nobody_at_all'),
  ('train', '--workdir=NEW --config=README.md', 'README.md must be a Python file'),
  (
    'train',
    '--workdir=NEW --config=configs/difusion/images.py',
    'mean configs/diffusion/images',
  ),
  ('train', '--workdir=NEW --config=FILES/number.py', 'must return a dict or ConfigDict, got 3'),
  ('train', '--workdir=NEW --config=FILES/raises.py', 'failed: ZeroDivisionError: division'),
  ('train', '--workdir=NEW --config.data=mnist ' + DIGITS, 'such as --config.data.name=mnist'),
  ('train', '--workdir=NEW --config.seed=99999999999 ' + DIGITS, 'must be in [0, 4294967296)'),
  ('train', '--workdir=NEW --config.data.batch_size=0 ' + DIGITS, 'must be in [1, 1000000]'),
  (
    'train',
    '--workdir=NEW --config.data.source=docs ' + DIGITS,
    "data.source='docs' does not apply to digits; for your own data, set data.name to image_folder",
  ),
  ('train', '--workdir=NEW --config.optimizer.frozen=( ' + DIGITS, 'must be a regular expression'),
  (
    'train',
    '--workdir=NEW --config.train.steps=10% ' + DIGITS,
    "such as '500', '3 epochs' or '10 kimg'; got",
  ),
  ('train', '--workdir=NEW --config.train.steps=0 ' + DIGITS, "train.steps='0' must be at least 1"),
  ('train', '--workdir=NEW --config=diffusion/images:', 'images: ends in a colon'),
  ('train', '--workdir=NEW --config=docs', 'docs is a folder: write the path of a Python file'),
  ('train', '--workdir=NEW --extend ' + DIGITS, 'new holds no run; remove the flag to start one'),
  ('list', '--markdown samplers', "prints a whole page: leave out 'samplers'"),
  ('ablate', '--workdir=NEW', '--study is missing'),
  (
    'ablate',
    '--workdir=README.md ' + SOLVERS,
    'is a file: write a folder',
  ),
  ('ablate', '--workdir=NEW --study=FILES/number.py', 'must return a Study, got 3'),
  ('evaluate', '--workdir=NEW', 'holds no run'),
  (
    'evaluate',
    '--workdir=RUN --num_samples=0',
    '--num_samples=0: 0 is not an integer in',
  ),
  (
    'evaluate',
    '--workdir=RUN --metrics=parameters --sample_sets=3',
    '--sample_sets changes only frechet',
  ),
  (
    'evaluate',
    '--workdir=RUN --metrics=parameters --reference=all',
    '--reference changes only frechet',
  ),
  ('evaluate', '--workdir=RUN --num_samples=x', '--num_samples=x: write a whole number'),
  ('evaluate', '--workdir=RUN --metrics=', '--metrics= is empty'),
  (
    'evaluate',
    '--workdir=RUN --metrics=evaluations --options=steps=0',
    'steps=0 must be in [1',
  ),
  (
    'evaluate',
    '--workdir=RUN --options=s_churn=3',
    's_churn belongs to sampler=edm',
  ),
  ('sample', '--workdir=RUN --options=steps', 'write name=value, such as steps=20'),
  ('sample', '--workdir=RUN --options=weak=3', 'write --weak=3'),
  ('sample', '--workdir=RUN --out=', '--out= is empty'),
  ('sample', '--workdir=RUN --out=README.md/x.png', 'cannot be written: README.md is not a folder'),
  ('sample', '--workdir=RUN --out=/proc/x.png', 'cannot be written: /proc: '),
  ('train', '--workdir=/proc/x/y ' + DIGITS, '--workdir=/proc/x/y cannot be written: /proc: '),
  ('ablate', '--workdir=/proc/x ' + SOLVERS, '--workdir=/proc/x: cannot be written: /proc: '),
  ('sample', '--workdir=RUN --out=docs', '--out=docs: is a folder: write a file'),
  ('sample', '--workdir=RUN --out=x.gif', 'x.gif: the name must end in .png or .npy'),
  ('sample', '--workdir=RUN --label=zero', "--label='zero' is not a class of digits"),
  ('sample', '--workdir=RUN --scale=99999', '--scale=99999: 99999 is not an integer in'),
  ('sample', '--workdir=RUN --num=999999 --out=x.png', 'pixels, and 268,435,456 are the most'),
  (
    'sample',
    '--workdir=RUN --options=strength=0.3',
    'no effect without --task=sdedit',
  ),
  ('sample', '--workdir=RUN --options=rescale=0.3', 'rescale has no effect without guidance'),
  ('sample', '--workdir=RUN --options=percentile=0.9', 'without threshold=dynamic'),
  ('sample', '--workdir=RUN --options=low=3,high=2,guidance=2', 'option low=3 must be below'),
  ('sample', '--workdir=RUN --scale=3 --out=x.npy', '--scale is for pictures'),
  ('sample', '--workdir=RUN --draft=RUN', 'of one family that has drafts (autoregressive), got'),
  ('sample', '--workdir=RUN --ema=0.1', 'the run stores no averages: train it with ema.widths'),
  ('sample', '--workdir=RUN --ema=nan', '--ema=nan: a width must be in (0, 0.2887)'),
  ('evaluate', '--workdir=RUN --ema=0.1,0.1', 'a width is given twice'),
  ('evaluate', '--workdir=RUN --on=digits', '--on=digits is the data of the run itself'),
  ('sample', '--workdir=RUN --weak=NEW --options=guidance=2.0', 'holds no run'),
  ('sample', '--workdir=RUN --options=classifier=2.0', 'another run (--classifier_from=WORKDIR)'),
  ('sample', '--workdir=RUN --options=classifier_from=x', 'write --classifier_from=x'),
  ('sample', '--workdir=RUN --classifier_from=NEW --options=classifier=2.0', 'holds no run'),
  (
    'sample',
    '--workdir=RUN --classifier_from=RUN --options=classifier=2.0',
    'must be a run of the family classifier, got one of diffusion',
  ),
  (
    'evaluate',
    '--workdir=RUN --metrics=bits_per_dim --classifier_from=RUN',
    'must be a run of the family classifier, got one of diffusion',
  ),
  ('evaluate', '--workdir=RUN --metrics=crps', 'crps of digits: applies only to time series; its'),
  ('evaluate', '--workdir=RUN --metrics=parameters,parameters', 'a metric is given twice'),
  (
    'evaluate',
    '--workdir=RUN --metrics=agreement --likelihood=flow',
    'changes only bits_per_dim',
  ),
  (
    'evaluate',
    '--workdir=RUN --metrics=bits_per_dim --options=steps=5',
    '--options has no effect: bits_per_dim need no samples',
  ),
  ('sample', '--workdir=RUN --seed=-1', '--seed=-1: -1 is not an integer in the range'),
  ('prepare_data', '', '--dataset is missing'),
  ('prepare_data', '--dataset=mnits', "unknown --dataset 'mnits'; did you mean 'mnist'?"),
  (
    'prepare_data',
    '--dataset=mnist --horizon=3',
    '--horizon does not apply to mnist; its flags',
  ),
  ('prepare_data', '--dataset=npz', 'needs --source'),
  ('prepare_data', '--dataset=digits --data_dir=s3://x', 'not a URL'),
  ('benchmark', '--out=x.json', '--out=x.json: the name must end in .md'),
  ('convert', '--workdir=NEW --shard_mb=nan', '--shard_mb=nan: write a whole number'),
  ('convert', '--workdir=NEW --write=NEW --fresh', '--fresh has no effect with --write'),
  ('convert', '--workdir=RUN --write=NEW', 'must be of the autoregressive family'),
  ('convert', '--workdir=NEW', 'give either --read=PATH or --write=FOLDER'),
]


@pytest.fixture(scope='module')
def printed(tmp_path_factory):
  """[(exit code, text)] for the command lines of REFUSED, and the folder NEW."""
  folder = tmp_path_factory.mktemp('refused')
  (folder / 'run').mkdir()
  (folder / 'run' / 'config.json').write_text(to_json(families.defaults('diffusion')))
  (folder / 'number.py').write_text('def get_config():\n  return 3\n\n\nget_study = get_config\n')
  (folder / 'raises.py').write_text('def get_config():\n  return 1 / 0\n')
  places = {'NEW': folder / 'new', 'RUN': folder / 'run', 'FILES': folder}
  lines = []
  for command, given, _ in REFUSED:
    for name, place in places.items():
      given = given.replace(f'={name}', f'={place}')
    lines.append([command, *given.split()])
  return [ended(*line) for line in lines], places['NEW']


@pytest.mark.parametrize('number', range(len(REFUSED)), ids=[' '.join(r[:2]) for r in REFUSED])
def test_a_command_line_that_cannot_work_is_refused_in_one_line(printed, number):
  (code, *texts), new = printed[0][number], printed[1]
  text = ''.join(texts)
  *_, last = text.splitlines()
  assert code == 1 and last.startswith('error: ') and REFUSED[number][2] in last, text
  assert 'Traceback' not in text and text.count('error:') == 1
  assert not new.exists()


@pytest.mark.parametrize(
  ('family', 'options', 'message'),
  [
    ('diffusion', {'steps': 10**8}, r'^option steps=100000000 must be in \[1, 100000\]'),
    ('diffusion', {'steps': 2.5}, 'option steps=2.5 must be a whole number'),
    ('diffusion', {'stps': 5}, "unknown sampling option 'stps'; did you mean 'steps'"),
    ('diffusion', {'eta': 2, 'sampler': 'ddim'}, r'option eta=2 must be in \[0, 1\]'),
    ('diffusion', {'guidance': float('inf')}, '^option guidance=inf must be a finite number'),
    ('diffusion', {'percentile': 2}, r'^option percentile=2 must be in \(0, 1\]'),
    ('diffusion', {'threshold': 'dynamc'}, "'dynamc' is unknown; did you mean 'dynamic'"),
    ('diffusion', {'task': 'inpant'}, "unknown option task 'inpant'; did you mean 'inpaint'"),
    ('diffusion', {'guidance': {'w': 1}}, 'there is no option guidance.w;'),
    ('diffusion', {'task': 'inpaint'}, 'images: twofold sample --task=inpaint'),
    ('diffusion', {'mask': 'left'}, 'option mask is a flag of its own: write --mask=left$'),
    ('diffusion', {'step': 5}, 'option step is a flag of its own: write --step=5, or option steps'),
    ('diffusion', {'final_denoise': 'maybe'}, "final_denoise='maybe' must be True or False"),
    ('autoregressive', {'greedy': 'maybe'}, "option greedy='maybe' must be True or False"),
    ('autoregressive', {'top_k': 2.5}, '^option top_k=2.5 must be a whole number'),
    ('autoregressive', {'temperature': 'hot'}, "option temperature='hot' must be a number"),
    ('autoregressive', {'beams': 2, 'top_k': 3}, 'option beams=2 ranks by'),
    ('autoregressive', {'stop': 3.5}, 'option stop must hold texts or tuples'),
    ('autoregressive', {'steps': 5}, 'option steps is for runs of the diffusion family only'),
    ('diffusion', {'stop': 5}, 'option stop is for runs of the autoregressive family only'),
    ('autoregressive', {'stps': 5}, "unknown sampling option 'stps'"),
  ],
)
def test_options_are_checked_whatever_is_measured(family, options, message):
  with pytest.raises(ConfigError, match=message):
    families.check_options(families.defaults(family), options)


def test_options_that_suit_are_accepted():
  families.check_options(
    families.defaults('diffusion'), {'sampler': 'edm', 's_tmax': float('inf'), 'guidance': 2.0}
  )
  families.check_options(families.defaults('autoregressive'), {'stop': 'end', 'top_p': 0.9})
