"""Splits by hash, which datasets share, and the digits."""

import hashlib

import numpy as np
import pytest
from sklearn import datasets

from common.config import ConfigError
from common.data import pipeline
from common.data.builders import base


def test_hash_splits_are_about_80_10_10_and_contain_every_example_once():
  splits = base.hash_splits((base.digest(bytes([i % 256, i // 256])) for i in range(10_000)), 'x')
  assert sorted(np.concatenate(list(splits.values())).tolist()) == list(range(10_000))
  sizes = {split: len(indices) / 10_000 for split, indices in splits.items()}
  # Three standard deviations of a binomial: 0.009 for 0.1, 0.012 for 0.8.
  assert sizes == pytest.approx({'train': 0.8, 'validation': 0.1, 'test': 0.1}, abs=0.012)


def test_examples_keep_their_split_when_others_are_added():
  few = [base.digest(f'{i}'.encode()) for i in range(0, 2000, 3)]
  many = [base.digest(f'{i}'.encode()) for i in range(2000)]
  where = {many[i]: split for split, part in base.hash_splits(many, 'x').items() for i in part}
  for split, part in base.hash_splits(few, 'x').items():
    assert {where[few[i]] for i in part} == {split}


@pytest.mark.parametrize('count', [3, 4, 5, 10, 30])
def test_hash_splits_of_a_tiny_set_are_never_empty(count):
  for salt in range(50):
    splits = base.hash_splits([base.digest(f'{salt}-{i}'.encode()) for i in range(count)], 'x')
    assert all(len(part) for part in splits.values())
    assert sorted(np.concatenate(list(splits.values())).tolist()) == list(range(count))


def test_hash_splits_put_equal_examples_together():
  hashes = [base.digest(f'{i % 40}'.encode()) for i in range(400)]
  splits = base.hash_splits(hashes, 'x')
  seen = [{hashes[i] for i in part} for part in splits.values()]
  assert sum(map(len, seen)) == len(set.union(*seen)) == 40


def test_hash_splits_need_three_examples():
  with pytest.raises(ConfigError, match=r'x must hold at least 3 different examples, .*, got 2'):
    base.hash_splits([base.digest(b'a'), base.digest(b'b'), base.digest(b'a')], 'x')


def md5(source) -> str:
  examples = source.gather(np.arange(len(source)))
  return hashlib.md5(examples['x'].tobytes() + examples['label'].tobytes()).hexdigest()


def test_digits_equal_those_of_scikit_learn_and_their_splits_are_fixed(digits):
  spec, splits = digits.spec, digits.splits
  assert (spec.shape, spec.levels, spec.num_classes, spec.num_train) == ((8, 8, 1), 17, 10, 1445)
  assert {k: len(source) for k, source in splits.items()} == {
    'train': 1445,
    'validation': 186,
    'test': 166,
  }
  assert {split: md5(source) for split, source in splits.items()} == {
    'train': '6633b7e79f4e9b34052aa0a2b6594709',
    'validation': 'cd8eb27b5d68bcf44c6b12d65f90a304',
    'test': '5f2770b95265ae1d330bff90ed93d01e',
  }
  bunch = datasets.load_digits()
  parts = [source.gather(np.arange(len(source))) for source in splits.values()]
  ours = np.concatenate([np.c_[part['x'].reshape(-1, 64), part['label']] for part in parts])
  theirs = np.c_[bunch.data, bunch.target].astype(int)
  np.testing.assert_array_equal(*(a[np.lexsort(a.T)] for a in (ours.astype(int), theirs)))


def test_an_unknown_dataset_is_refused_and_the_known_ones_are_listed(tmp_path):
  with pytest.raises(ConfigError, match=r"unknown data.name 'minst'; did you mean 'mnist'\? known"):
    pipeline.load({'name': 'minst', 'dir': str(tmp_path)})
