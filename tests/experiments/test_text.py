"""The commands on text, as a person types them."""

import pytest

from common.reporting import writers
from tests.experiments.commands import refused, run

# They train; by default tests/experiments/test_train.py stands for all kinds of data.
pytestmark = pytest.mark.slow

VERSES = ''.join(f'{n} green bottles hanging on the wall;\n' for n in range(60))
TINY = (
  '--config=configs/autoregressive/text.py:file',
  '--config.data.tokenizer=characters',
  '--config.data.context=12',
  '--config.network.width=16',
  '--config.network.layers=1',
  '--config.network.heads=2',
  '--config.train.steps=8',
  '--config.train.steps_per_call=4',
  '--config.train.sample_every=8',
  '--config.train.evaluate_every=8',
  '--config.train.checkpoint_every=8',
  '--config.train.log_every=4',
)


@pytest.fixture(scope='module')
def trained(tmp_path_factory):
  folder = tmp_path_factory.mktemp('text')
  (folder / 'verses.txt').write_text(VERSES)
  run('train', *TINY, f'--config.data.source={folder}/verses.txt', f'--workdir={folder}/run')
  return folder


def test_training_writes_texts_and_its_vocabulary(trained):
  page = (trained / 'run' / 'samples' / '00000008.txt').read_text()
  assert set(page) <= set(VERSES) | {'-'}
  assert (trained / 'run' / 'tokenizer.json').exists()
  assert writers.read(trained / 'run', 'validation')[-1]['loss'] < 3.5


def test_sampling_continues_a_prompt_beyond_the_context_and_evaluation_measures_text(trained):
  flags = (f'--workdir={trained}/run', '--prompt=7 green', '--num=2', '--length=40')
  printed = run('sample', *flags, f'--out={trained}/out.txt')
  page = (trained / 'out.txt').read_text()
  assert page in printed
  (line,) = [x for x in printed.splitlines() if x.startswith('log-probability of the drawn part')]
  log_probs = [float(x) for x in line.partition(': ')[2].split(', ')]
  assert len(log_probs) == 2 and max(log_probs) < -40  # 40 tokens, hardly learned
  texts = page.split('\n' + '-' * 72 + '\n')
  assert len(texts) == 2 and all(text.startswith('7 green') for text in texts)
  assert texts[0] != texts[1]
  assert len(texts[0]) > 30
  printed = run('evaluate', f'--workdir={trained}/run', '--num_samples=4')
  assert 'bits/dim: ' in printed and 'Fréchet distance: -   applies only to images' in printed
  assert list((trained / 'run' / 'evaluations').glob('*.txt'))


def test_a_bad_prompt_is_refused_in_one_line(trained):
  flags = (f'--workdir={trained}/run', '--prompt=99 green bottles')
  message = 'the prompt must have at most 12 tokens, so that one more fits into the 13 of the model'
  assert message in refused('sample', *flags)


@pytest.mark.slow
def test_fine_tuning_starts_from_the_weights_of_a_run(trained):
  source = f'--config.data.source={trained}/verses.txt'
  more = (f'--config.finetune.source={trained}/run', '--config.optimizer.frozen=^token_embed/')
  run('train', *TINY, source, *more, f'--workdir={trained}/more')
  before = writers.read(trained / 'run', 'validation')[-1]
  rows = writers.read(trained / 'more', 'validation')
  assert [row['step'] for row in rows] == [0, 8]
  assert rows[0]['loss'] == pytest.approx(before['loss'], rel=1e-5)
  assert rows[1]['loss'] < rows[0]['loss']
  wider = ('--config.network.width=32', f'--workdir={trained}/wide')
  assert 'network.width: there 16, here 32' in refused('train', *TINY, source, *more, *wider)
  assert not (trained / 'wide').exists()
