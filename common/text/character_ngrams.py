"""A character n-gram model: the classical baseline for models of text."""

import collections
import math
from collections.abc import Iterable

import numpy as np

Counts = dict[str, collections.Counter]


class CharacterNgrams:
  """p(c | h) from counts of n-grams, interpolated with those of shorter contexts.

  Witten & Bell 1991, method C, as in Chen & Goodman 1998, equation 10: with N(h) characters after
  the context h, T(h) of them different, and h' without the first character of h,

    p(c | h) = (count(h, c) + T(h)·p(c | h')) / (N(h) + T(h)),

  down to the uniform distribution over the characters of the text and one that stands for others.

  Attributes:
    order: n; the context has n − 1 characters.
    characters: those of the text.
  """

  def __init__(self, order: int, texts: Iterable[str]):
    """Counts the n-grams of some texts."""
    self.order = order
    self._counts: Counts = collections.defaultdict(collections.Counter)
    for text in texts:
      for i, character in enumerate(text):
        for size in range(min(i, order - 1) + 1):
          self._counts[text[i - size : i]][character] += 1
    self.characters = ''.join(sorted(self._counts['']))
    self._ids = {character: i for i, character in enumerate(self.characters)}

  def distribution(self, context: str) -> np.ndarray:
    """p(c | context) of each character, and last that of all others together."""
    size = len(self.characters) + 1
    found = np.full(size, 1 / size)
    context = context[max(len(context) - self.order + 1, 0) :]
    # From the empty context to the longest.
    for start in range(len(context), -1, -1):
      counts = self._counts.get(context[start:])
      if counts is None:
        break
      found *= len(counts)
      for character, count in counts.items():
        found[self._ids[character]] += count
      found /= counts.total() + len(counts)
    return found

  def bits_per_character(self, text: str) -> float:
    """Mean −log₂ p of the characters of a text, given those before them."""
    total = 0.0
    for i, character in enumerate(text):
      place = self._ids.get(character, len(self.characters))
      total -= math.log2(self.distribution(text[max(i - self.order + 1, 0) : i])[place])
    return total / len(text)

  def draw(self, context: str, rng: np.random.Generator, temperature: float = 1.0) -> str:
    """One character after a context; never one that stands for others."""
    weights = self.distribution(context)[:-1] ** (1 / temperature)
    return self.characters[rng.choice(len(weights), p=weights / weights.sum())]
