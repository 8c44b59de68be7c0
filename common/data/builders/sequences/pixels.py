"""Images as sequences of pixels that end with the class: sequential and permuted MNIST.

The tasks of Le, Jaitly & Hinton 2015, as Bai, Kolter & Koltun 2018 (TCN, section 4) score them: a
network reads the pixels of an image one by one, in raster order or in one random order for all
images, and then says its class. Here the class is the last token of the sequence, and the only one
that counts: it is predicted after all pixels. A grey level is a token, and each class one more.
"""

import functools
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from jaxtyping import Int

from common.data import tokenizers
from common.data.builders import base, digits
from common.data.builders.published import idx
from common.data.spec import token_dtype

CLASSES = 10  # of each of these sets
BLANK = 0x2800  # of Unicode's 256 patterns of Braille dots, which write grey levels


class PixelSequences(base.Builder, skip_registration=True):
  """The images of another builder, a base class next to this one, as sequences of tokens.

  `data.permutation` is the seed of the order of the pixels; 0: rows from top to bottom.
  """

  domain = 'text'
  holds_images = False
  flags = ('permutation',)

  @classmethod
  def variant(cls, settings: Mapping[str, Any]) -> str:
    seed = settings['permutation']
    return f'permutation{seed}' if seed else ''

  @classmethod
  def expected(cls, settings):
    images = super().expected({**settings, 'palette': 0})
    tokenizer = make_tokenizer(images['levels'])
    return dict(
      shape=(int(np.prod(images['shape'])) + 1,),
      levels=tokenizer.vocabulary,
      num_classes=0,
      num_train=images['num_train'],
      tokenizer=tokenizer,
      counted=True,
    )

  def read(self) -> base.Contents:
    images = super().read()
    order = pixel_order(int(np.prod(images.shape)), self.settings['permutation'])
    tokenizer = make_tokenizer(images.levels)
    return base.Contents(
      shape=(len(order) + 1,),
      levels=tokenizer.vocabulary,
      class_names=(),
      splits={
        split: functools.partial(sequence_examples, examples, order, images.levels)
        for split, examples in images.splits.items()
      },
      tokenizer=tokenizers.to_json(tokenizer),
      counted=True,
    )


class SequentialDigits(PixelSequences, digits.Digits, skip_registration=True):
  """scikit-learn's digits, pixel by pixel, and then their class, which alone counts."""

  name = 'sequential_digits'


class SequentialMnist(PixelSequences, idx.Mnist, skip_registration=True):
  """MNIST pixel by pixel, in raster order or permuted, and then the class, which alone counts."""

  name = 'sequential_mnist'
  flags = ('source', 'permutation')


class SequentialFashionMnist(PixelSequences, idx.FashionMnist, skip_registration=True):
  """Fashion-MNIST pixel by pixel, and then the class, which alone counts."""

  name = 'sequential_fashion_mnist'
  flags = ('source', 'permutation')


def make_tokenizer(levels: int) -> tokenizers.Characters:
  """Writes a grey level as a pattern of Braille dots, and a class as its number, a digit."""
  grey = ''.join(chr(BLANK + level) for level in range(levels))
  return tokenizers.Characters(grey + ''.join(map(str, range(CLASSES))))


def pixel_order(number: int, seed: int) -> Int[np.ndarray, 'number']:
  """The place in the image of each pixel of a sequence; seed 0: raster order."""
  return np.random.default_rng(seed).permutation(number) if seed else np.arange(number)


def sequence_examples(
  examples: Callable[[], base.Examples], order: Int[np.ndarray, 'pixels'], levels: int
) -> base.Examples:
  """Labelled images as sequences: the pixels in this order, then `levels` + the class."""
  counted = np.arange(len(order) + 1) == len(order)
  for key, example in examples():
    # Joined as int64, because a class is no uint8 next to 256 grey levels.
    x = np.append(example['x'].reshape(-1)[order], np.int64(levels + example['label']))
    yield key, {'x': x.astype(token_dtype(levels + CLASSES)), 'counted': counted}
