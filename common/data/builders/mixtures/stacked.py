"""Stacked MNIST: three random digits as the channels of an image, which makes 1,000 modes.

Metz, Poole, Pfau & Sohl-Dickstein 2017 (Unrolled GANs), section 3.3.1; Srivastava et al. 2017
(VEEGAN). Each channel of a split has every digit of MNIST's own split exactly once, in a random
order of its own, so that the splits share no digit, and digits are as frequent as in MNIST.
"""

import functools
from collections.abc import Callable

import numpy as np

from common.data.builders import base, images
from common.data.builders.published import idx
from common.data.modes import Modes

CHANNELS = 3


class StackedMnist(idx.Mnist, skip_registration=True):
  """Images of three channels, each with a digit; without classes."""

  name = 'stacked_mnist'
  flags = ('source', 'palette')

  @classmethod
  def expected(cls, settings):
    modes = Modes(classes=(len(cls.class_names),) * CHANNELS)
    shape, num_train = (28, 28, CHANNELS), 60_000 - cls.num_validation
    known = images.image_format(settings, shape, 256, 0, num_train)
    return known | dict(modes=modes) if known else known

  def read(self) -> base.Contents:
    digits = super().read()
    modes = Modes(classes=(len(digits.class_names),) * CHANNELS)
    return digits._replace(
      shape=(*digits.shape[:-1], CHANNELS),
      class_names=(),
      splits={
        split: functools.partial(stacked_examples, examples, modes)
        for split, examples in digits.splits.items()
      },
      modes=modes,
    )


def stacked_examples(examples: Callable[[], base.Examples], modes: Modes) -> base.Examples:
  """Examples whose channels are those of `examples`, each channel in an order of its own."""
  singles = [example for _, example in examples()]
  orders = [np.random.default_rng(channel).permutation(len(singles)) for channel in range(CHANNELS)]
  for key, chosen in enumerate(np.stack(orders, axis=-1).tolist()):
    x = np.concatenate([singles[i]['x'] for i in chosen], axis=-1)
    mode = modes.mode_of(np.array([[singles[i]['label'] for i in chosen]]))
    yield f'{key:09d}', {'x': x, 'mode': int(mode[0])}
