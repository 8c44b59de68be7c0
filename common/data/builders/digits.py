"""Handwritten digits of 8×8 pixels, which are part of scikit-learn: nothing is downloaded.

1,797 examples with values from 0 to 16 in ten classes (Alpaydin & Kaynak 1998, the test set of
"Optical recognition of handwritten digits").
"""

import numpy as np

from common.data.builders import base, images


class Digits(images.ImageBuilder, skip_registration=True):
  """scikit-learn's digits, split by the hash of each image."""

  name = 'digits'

  @classmethod
  def expected(cls, settings):
    return images.image_format(settings, (8, 8, 1), levels=17, num_classes=10, num_train=1445)

  def read(self) -> base.Contents:
    from sklearn import datasets

    bunch = datasets.load_digits()
    x = bunch.images.astype(np.uint8)[..., None]
    splits = base.hash_splits((base.digest(image.tobytes()) for image in x), self.name)
    return base.Contents(
      shape=x.shape[1:],
      levels=17,
      class_names=tuple(map(str, bunch.target_names)),
      splits=base.array_splits(x, bunch.target, splits),
    )
