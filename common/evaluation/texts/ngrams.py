"""Diversity and repetition of texts, from their n-grams of words.

A word is a run of letters, digits and underscores, or any other character that is not a space, so
that models with different tokenizers are compared in the same units.
"""

import bisect
import math
import re
from collections import Counter
from collections.abc import Sequence

import numpy as np

WORD = re.compile(r'\w+|[^\w\s]')
MAX_ORDER = 4  # of the n-grams of BLEU
SMOOTHING = 0.1  # matches that stand for none
RANKS = 5000  # words of a Zipf coefficient
MIN_REPEATS = 3  # of a phrase of at least two words, at the end of a text that loops

Words = Sequence[str]


def words_of(text: str) -> list[str]:
  """The words of a text."""
  return WORD.findall(text)


def ngrams(words: Words, n: int) -> list[tuple[str, ...]]:
  """All n-grams of a text, in order."""
  return list(zip(*(words[i:] for i in range(n)), strict=False))


def distinct(texts: Sequence[Words], n: int) -> float:
  """Distinct-n: different n-grams of all texts over their number (Li et al. 2016, section 5.2)."""
  found = [gram for words in texts for gram in ngrams(words, n)]
  return len(set(found)) / len(found) if found else math.nan


def repetition(words: Words, n: int = 4) -> float:
  """rep-n: the share of the n-grams of a text that occurred in it before; NaN without n-grams.

  1 − (different n-grams) / (n-grams) (Welleck et al. 2020, equation 9).
  """
  found = ngrams(words, n)
  return 1 - len(set(found)) / len(found) if found else math.nan


def loops(words: Words) -> bool:
  """Whether a text ends in a loop: a phrase of at least two words, three times or more.

  As Holtzman et al. 2020, section 5.2, count repetition.
  """
  for size in range(2, len(words) // MIN_REPEATS + 1):
    end = list(words[-size:])
    if list(words[-MIN_REPEATS * size :]) == end * MIN_REPEATS:
      return True
  return False


def zipf_coefficient(texts: Sequence[Words]) -> float:
  """s of the power law frequency ∝ rank^(−s), fitted to the logarithms (Holtzman et al. 2020).

  NaN for fewer than two different words. Natural text has about 1.
  """
  counts = sorted(Counter(word for words in texts for word in words).values(), reverse=True)[:RANKS]
  if len(counts) < 2:
    return math.nan
  slope, _ = np.polyfit(np.log(np.arange(1, len(counts) + 1)), np.log(counts), 1)
  return float(-slope)


def self_bleu(texts: Sequence[Words]) -> list[float]:
  """The BLEU of each text with all others as references (Zhu et al. 2018): 1 if texts are equal.

  BLEU has orders 1 to 4 (Papineni et al. 2002); a precision without matches counts 0.1 of one
  (Chen & Cherry 2014, smoothing 1). The work grows with the number of texts, not with its square:
  of each n-gram only the two largest counts in a text are kept.
  """
  top = [_largest_counts(texts, n) for n in range(1, MAX_ORDER + 1)]
  lengths = sorted(map(len, texts))
  return [_bleu(words, top, lengths) for words in texts]


def _largest_counts(texts: Sequence[Words], n: int) -> dict[tuple[str, ...], list[int]]:
  """{n-gram: its two largest counts in a text}."""
  top: dict[tuple[str, ...], list[int]] = {}
  for words in texts:
    for gram, count in Counter(ngrams(words, n)).items():
      top[gram] = sorted([*top.get(gram, [0, 0]), count], reverse=True)[:2]
  return top


def _bleu(words: Words, top: Sequence[dict], lengths: Sequence[int]) -> float:
  """BLEU of one text against all the others."""
  logs = []
  for n, largest in enumerate(top, 1):
    counts, matches = Counter(ngrams(words, n)), 0
    for gram, count in counts.items():
      # The largest count in another text: if this one has the largest, the second largest.
      first, second = largest[gram]
      matches += min(count, second if count == first else first)
    if n == 1 and not matches:
      return 0.0
    logs.append(math.log((matches or SMOOTHING) / max(counts.total(), 1)))
  return _brevity(len(words), lengths) * math.exp(sum(logs) / MAX_ORDER)


def _brevity(length: int, lengths: Sequence[int]) -> float:
  """BLEU's penalty for a text shorter than the closest reference; `lengths` are those of all."""
  others = list(lengths)
  others.pop(bisect.bisect_left(others, length))  # its own
  at = bisect.bisect_left(others, length)
  closest = min(others[max(at - 1, 0) : at + 1], key=lambda other: (abs(other - length), other))
  return 1.0 if length >= closest else math.exp(1 - closest / length)
