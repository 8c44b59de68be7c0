"""N-grams against closed forms, and self-BLEU against nltk."""

import math

import numpy as np
import pytest

from common.evaluation.texts import ngrams

CATS = ('the cat sat on the mat', 'the cat ate', 'a dog', 'the dog sat on the cat', 'a dog')
TEXTS = [text.split() for text in CATS]


def test_words_are_runs_of_letters_and_single_marks():
  assert ngrams.words_of("Don't  stop,\nnaïve_1!") == ['Don', "'", 't', 'stop', ',', 'naïve_1', '!']


def test_distinct_and_repetition_count_ngrams():
  assert ngrams.distinct([['a', 'b', 'a', 'b'], ['a']], 1) == 2 / 5
  assert ngrams.distinct([['a', 'b', 'a', 'b'], ['a']], 2) == 2 / 3
  assert math.isnan(ngrams.distinct([['a']], 2))
  assert ngrams.repetition(list('abcdabcd'), 4) == pytest.approx(1 / 5)
  assert ngrams.repetition(list('abcdefgh'), 4) == 0
  # A text of one word: all n-grams are equal.
  assert ngrams.repetition(['a'] * 103, 4) == 0.99
  assert math.isnan(ngrams.repetition(['a'] * 3, 4))


def test_a_loop_is_a_phrase_three_times_at_the_end():
  assert ngrams.loops(list('xyzababab')) and ngrams.loops(list('abcabcabc'))
  assert not ngrams.loops(list('xyzabab')) and not ngrams.loops(list('abababx'))
  assert ngrams.loops(list('aaaaaa')) and not ngrams.loops(list('xaaa'))


@pytest.mark.parametrize('s', [0.7, 1.0, 1.5])
def test_the_zipf_coefficient_of_a_power_law_is_its_exponent(s):
  counts = np.round(1e4 * np.arange(1, 60) ** -s).astype(int)
  words = [f'w{rank}' for rank, count in enumerate(counts) for _ in range(count)]
  assert ngrams.zipf_coefficient([words[::2], words[1::2]]) == pytest.approx(s, abs=5e-3)
  assert math.isnan(ngrams.zipf_coefficient([['a', 'a']]))


def test_self_bleu_of_equal_texts_is_one_and_of_different_ones_zero():
  words = list('abcdefg')
  assert ngrams.self_bleu([words, words, words]) == pytest.approx([1, 1, 1])
  assert ngrams.self_bleu([list('abcde'), list('fghij')]) == [0, 0]
  # Precisions 3/4, 2/3, 1/2 and 0.1/1, and a reference of the same length.
  expected = (3 / 4 * 2 / 3 * 1 / 2 * 0.1) ** 0.25
  assert ngrams.self_bleu([list('abcd'), list('abce')]) == pytest.approx([expected] * 2)
  # A shorter text: exp(1 - 5/4) times its precisions, all 1.
  assert ngrams.self_bleu([list('abcd'), list('abcde')])[0] == pytest.approx(math.exp(-1 / 4))


@pytest.mark.peers
def test_self_bleu_is_that_of_nltk():
  bleu = pytest.importorskip('nltk.translate.bleu_score')
  smoothing = bleu.SmoothingFunction(epsilon=ngrams.SMOOTHING).method1
  rng = np.random.default_rng(0)
  drawn = [rng.choice(list('abcd'), rng.integers(4, 30)).tolist() for _ in range(20)]
  for texts in (TEXTS, drawn):
    for i, found in enumerate(ngrams.self_bleu(texts)):
      others = texts[:i] + texts[i + 1 :]
      expected = bleu.sentence_bleu(others, texts[i], smoothing_function=smoothing)
      assert found == pytest.approx(expected, rel=1e-9)
