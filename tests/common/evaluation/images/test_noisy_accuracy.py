"""The accuracy of a classifier on noisy images: `noisy_accuracy`."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from common.evaluation.evaluate import evaluate, not_measured
from common.method import Hits, Method
from tests.cases import evaluation_settings
from tests.experiments.startup import tiny

SETTINGS = evaluation_settings(batch_size=8, num_samples=20, extractor='pixels')
DATA = tiny.data(num=20, classes=3)


class Recognises(Method):
  """Recognises every class at the lower level, and one class of three at the higher one."""

  noise_levels = (0.5, 2.0)
  has_likelihood = False

  def hits(self, params, batch):
    high = (batch['label'] == 0).astype(jnp.float32)
    right = jnp.stack([jnp.ones_like(high), high], axis=1)
    return Hits(right, jnp.ones_like(right))


def test_the_mean_over_levels_and_its_error_over_images():
  names = ['noisy_accuracy', 'agreement', 'parameters']
  found = evaluate(Recognises(), {}, DATA, SETTINGS, jax.random.key(0), names).measures
  measure = found['noisy_accuracy']
  each = np.where(np.arange(20) % 3 == 0, 1.0, 0.5)
  assert measure.value == pytest.approx(each.mean())
  assert measure.standard_error == pytest.approx(each.std(ddof=1) / np.sqrt(20))
  assert measure.note == 'test split, n=20: 1.000 at σ/α = 0.5, 0.350 at σ/α = 2'
  assert found['agreement'].value is None and found['parameters'].value == 0


def test_it_is_of_classifiers_and_these_have_no_metric_of_samples():
  assert not_measured('noisy_accuracy', Method(), DATA) == 'the model is no classifier'
  assert not_measured('frechet', Recognises(), DATA) == 'a classifier draws no samples'
  assert not not_measured('noisy_accuracy', Recognises(), DATA)
