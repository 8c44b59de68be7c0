"""The character n-gram model against its formula."""

import math

import numpy as np
import pytest

from common.text.character_ngrams import CharacterNgrams

TEXT = 'abracadabra'


def test_probabilities_are_those_of_the_formula():
  model = CharacterNgrams(3, [TEXT])
  assert model.characters == 'abcdr'
  # 11 characters, 5 of them different, and a uniform distribution over 6.
  single = {c: (TEXT.count(c) + 5 / 6) / 16 for c in 'abcdr'}
  np.testing.assert_allclose(model.distribution('')[:-1], list(single.values()))
  # After 'a': b twice, c, d; after 'ra': c alone.
  after_a = {c: (n + 3 * single[c]) / 7 for c, n in zip('abcdr', (0, 2, 1, 1, 0), strict=True)}
  np.testing.assert_allclose(model.distribution('xa')[:-1], list(after_a.values()))
  after_ra = {c: ((c == 'c') + after_a[c]) / 2 for c in 'abcdr'}
  np.testing.assert_allclose(model.distribution('abra')[:-1], list(after_ra.values()))


@pytest.mark.parametrize('context', ['', 'a', 'zz', 'abra', 'brac'])
def test_a_distribution_sums_to_one_and_leaves_something_for_others(context):
  found = CharacterNgrams(5, [TEXT, 'cab']).distribution(context)
  assert found.sum() == pytest.approx(1) and found.min() > 0


def test_likelihood_and_draws_follow_the_distribution():
  model = CharacterNgrams(5, [TEXT])
  bits = [
    -math.log2(model.distribution(TEXT[:i])[model.characters.index(TEXT[i])]) for i in range(5)
  ]
  assert model.bits_per_character(TEXT[:5]) == pytest.approx(np.mean(bits))
  assert math.isfinite(model.bits_per_character('abrax'))
  rng = np.random.default_rng(0)
  drawn = [model.draw('abr', rng) for _ in range(2000)]
  p = model.distribution('abr')[:-1]
  assert drawn.count('a') / 2000 == pytest.approx(p[0] / p.sum(), abs=0.03)
  assert {model.draw('abr', rng, temperature=0.01) for _ in range(20)} == {'a'}
