"""Classifiers of real images: they judge samples, and their activations serve as features.

scikit-learn fits them on the training split with a fixed seed. They are kept until the process
ends, and never written to disk. scikit-learn is imported only when needed: that takes seconds.
"""

import dataclasses
import functools
import hashlib
import warnings
from typing import Any, NamedTuple

import numpy as np
import threadpoolctl
from jaxtyping import Float, Int, UInt8

# An SVM with an RBF kernel judges small images better, but takes minutes on large sets.
SVM_EXAMPLES, SVM_PIXELS = 5000, 256


@dataclasses.dataclass(frozen=True)
class LabelledImages:
  """Real images with their classes; equal if their digests are, so that a fit can be reused.

  Attributes:
    digest: hash of images and labels.
    x, label: the training split.
    test_x, test_label: the split on which the accuracy of a classifier is measured.
    levels: images hold integers in [0, levels).
  """

  digest: str
  x: UInt8[np.ndarray, 'n height width channels'] = dataclasses.field(compare=False)
  label: Int[np.ndarray, 'n'] = dataclasses.field(compare=False)
  test_x: UInt8[np.ndarray, 'm height width channels'] = dataclasses.field(compare=False)
  test_label: Int[np.ndarray, 'm'] = dataclasses.field(compare=False)
  levels: int


def labelled_images(x, label, test_x, test_label, levels: int) -> LabelledImages:
  """Two splits of labelled images, with their digest."""
  arrays = [np.ascontiguousarray(a) for a in (x, label, test_x, test_label)]
  digest = hashlib.sha256()
  for array in arrays:
    digest.update(str((array.shape, array.dtype)).encode())
    digest.update(array.tobytes())
  return LabelledImages(digest.hexdigest(), *arrays, levels)


class Classifier(NamedTuple):
  """A fitted classifier, its name and its accuracy on the test split."""

  model: Any
  name: str
  levels: int
  accuracy: float

  def predict(self, images: UInt8[np.ndarray, 'n height width channels']) -> np.ndarray:
    """The class of each image."""
    return self.model.predict(as_vectors(images, self.levels))


def as_vectors(
  images: UInt8[np.ndarray, 'n height width channels'], levels: int
) -> Float[np.ndarray, 'n dim']:
  """Images as vectors in [0, 1]."""
  return images.reshape(len(images), -1).astype(np.float32) / (levels - 1)


def agreement_classifier(real: LabelledImages) -> Classifier:
  """The classifier for class agreement: an SVM if the images are few and small, else an MLP."""
  small = len(real.x) <= SVM_EXAMPLES and real.x[0].size <= SVM_PIXELS
  return fit('svm' if small else 'mlp', real)


@functools.lru_cache(maxsize=4)
def fit(name: str, real: LabelledImages) -> Classifier:
  """Fits the classifier `name` ('svm' or 'mlp') on the training split, once per process."""
  from sklearn import exceptions

  model = _MODELS[name](len(real.x))
  # The matrix products are so small that threads slow them down: on a busy machine 20-fold.
  with warnings.catch_warnings(), threadpoolctl.threadpool_limits(1):
    # A few passes are enough to recognise classes: the fit need not converge.
    warnings.simplefilter('ignore', exceptions.ConvergenceWarning)
    model.fit(as_vectors(real.x, real.levels), real.label)
  accuracy = float(model.score(as_vectors(real.test_x, real.levels), real.test_label))
  return Classifier(model, name, real.levels, accuracy)


def penultimate(
  classifier: Classifier, images: UInt8[np.ndarray, 'n height width channels']
) -> Float[np.ndarray, 'n dim']:
  """Activations of an MLP's last hidden layer."""
  hidden = as_vectors(images, classifier.levels)
  model = classifier.model
  for weight, bias in zip(model.coefs_[:-1], model.intercepts_[:-1], strict=True):
    hidden = np.maximum(hidden @ weight + bias, 0.0)  # ReLU, the default of scikit-learn
  return hidden


def _svm(num_examples: int):
  from sklearn import svm

  del num_examples
  return svm.SVC(C=10.0, gamma='scale')


def _mlp(num_examples: int):
  from sklearn import neural_network

  # Passes over the split: about 600,000 examples in total, so that large sets do not take hours.
  passes = int(np.clip(600_000 // num_examples, 8, 200))
  return neural_network.MLPClassifier((128, 64), max_iter=passes, random_state=0)


_MODELS = {'svm': _svm, 'mlp': _mlp}
