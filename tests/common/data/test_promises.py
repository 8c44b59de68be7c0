"""What every dataset promises: three disjoint splits, the same at every read, as its spec says."""

import json
import pathlib
import re

import numpy as np
import pytest
from PIL import Image

from common.data import pipeline
from common.data.builders import BUILDERS

HERE = pathlib.Path(__file__).parent
RNG = np.random.default_rng(0)


def image_folder(folder):
  for i in range(30):
    path = folder / 'images' / ('cat', 'dog')[i % 2] / f'{i}.png'
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(RNG.integers(0, 256, (4, 5, 3), np.uint8)).save(path)
  return {'source': str(folder / 'images')}


def npz(folder):
  x, y = RNG.integers(0, 256, (40, 4, 3, 1), np.uint8), np.arange(40) % 3
  np.savez(folder / 'arrays.npz', x=x, y=y)
  return {'source': str(folder / 'arrays.npz')}


def text(folder):
  (folder / 'a.txt').write_text(''.join(chr(97 + c) for c in RNG.integers(0, 20, 4000)))
  return {'source': str(folder / 'a.txt'), 'context': 8, 'tokenizer': 'bytes'}


def series(folder):
  lines = [f'{np.datetime64("2001-01") + i},{value:.3f}' for i, value in enumerate(RNG.random(90))]
  (folder / 'a.csv').write_text('\n'.join(['date,value', *lines]) + '\n')
  return {'source': str(folder / 'a.csv'), 'context': 8, 'horizon': 3, 'stride': 1}


def dialogues(folder):
  lines = [json.dumps({'prompt': f'{n} + 1?', 'answer': str(n + 1)}) for n in range(60)]
  (folder / 'a.jsonl').write_text('\n'.join(lines))
  (folder / 'plain.jinja').write_text(
    '{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}'
    '{% if add_generation_prompt %}assistant: {% endif %}'
  )
  settings = {'source': str(folder / 'a.jsonl'), 'template': str(folder / 'plain.jinja')}
  return settings | {'context': 64, 'tokenizer': 'bytes'}


def nothing(folder):
  del folder
  return {}


# {dataset: a function of a folder that makes a small source there, and returns the settings}
SOURCES = {
  'dialogues': dialogues,
  'digits': nothing,
  'image_folder': image_folder,
  'npz': npz,
  'ring': nothing,
  'series': series,
  'text': text,
}
# Datasets without a small source, and the files in this folder that test their splits.
ELSEWHERE = {
  'mnist': 'published/test_idx.py',
  'fashion_mnist': 'published/test_idx.py',
  'stacked_mnist': 'test_mixtures.py',
  'gaussians25': 'test_mixtures.py',
  'cifar10': 'published/test_cifar10.py',
  'imagenet': 'published/test_imagenet.py',
  'aus_retail': 'test_series.py',
  **dict.fromkeys(('m1', 'm3', 'm4', 'tourism', 'exchange_rate'), 'published/test_competitions.py'),
  **dict.fromkeys(
    ('exchange_rate_long', 'etth1', 'etth2', 'vic_elec'), 'published/test_competitions.py'
  ),
  'shakespeare': 'test_text.py',
  'python_code': 'test_text.py',
  'chorales': 'test_chorales.py',
  'piano_rolls': 'sequences/test_piano_rolls.py',
  'copy_memory': 'sequences/test_copy_memory.py',
  **dict.fromkeys(
    ('sequential_digits', 'sequential_mnist', 'sequential_fashion_mnist'),
    'sequences/test_pixels.py',
  ),
}


def test_every_dataset_is_held_to_its_promises():
  missing = sorted(set(BUILDERS) - set(SOURCES) - set(ELSEWHERE))
  assert not missing, f'add {missing} to SOURCES in tests/common/data/{pathlib.Path(__file__).name}'
  for name, file in ELSEWHERE.items():
    constructor = BUILDERS[name].__name__
    pattern = rf"\b{constructor}\b|'{name}'|\b{name}\("
    assert re.search(pattern, (HERE / file).read_text()), f'test the splits of {name} in {file}'


@pytest.mark.parametrize('name', SOURCES)
def test_splits_are_disjoint_stable_and_as_the_spec_says(name, tmp_path):
  settings = {'name': name, 'dir': str(tmp_path / 'data')} | SOURCES[name](tmp_path)
  spec, splits, *_ = pipeline.load(settings)
  assert set(splits) - {'future'} == {'train', 'validation', 'test'}
  assert len(splits['train']) == spec.num_train
  seen = {}
  for split, source in splits.items():
    examples = source.gather(np.arange(len(source)))
    again = pipeline.load(settings).splits[split].gather(np.arange(len(source)))
    expected = spec.batch_struct(len(source))
    assert len(source) > 0 and examples.keys() == expected.keys()
    for key, values in examples.items():
      assert (values.shape, values.dtype) == (expected[key].shape, expected[key].dtype)
      np.testing.assert_array_equal(values, again[key])
    seen[split] = {row.tobytes() for row in examples['x']}
  # An example of one split never occurs in another: whatever is evaluated was not trained on.
  assert not seen['train'] & (seen['validation'] | seen['test'])
  assert not seen['validation'] & seen['test']
