"""The share of tokens that are predicted, by hand."""

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from common.data.pipeline import Data
from common.data.spec import DataSpec
from common.evaluation.evaluate import evaluate
from common.method import Hits, Method
from tests.cases import evaluation_settings
from tests.common.domains.toy import Split

SETTINGS = evaluation_settings(batch_size=2, num_samples=4)
X = np.array([[0, 1, 1], [1, 1, 0], [1, 0, 1]], np.uint8)


@dataclasses.dataclass(frozen=True, eq=False)
class AlwaysOne(Method):
  """Takes every token for a 1."""

  predicts = True

  def hits(self, params, batch):
    counted = batch['counted'] * batch['weight'][:, None]
    return Hits((counted * (batch['x'] == 1)).sum(-1), counted.sum(-1).astype(jnp.float32))


def measured(method, **marks):
  spec = DataSpec('bits', 'text', (3,), 2, counted=bool(marks))
  data = Data(spec, dict.fromkeys(('train', 'validation', 'test'), Split(x=X, **marks)))
  return evaluate(method, {}, data, SETTINGS, jax.random.key(0), ['accuracy']).measures['accuracy']


def test_of_the_last_tokens_two_of_three_are_right():
  found = measured(AlwaysOne(), counted=np.broadcast_to([False, False, True], X.shape))
  assert found.value == pytest.approx(2 / 3) and found.note == 'test split, 3 tokens'
  # The roots of (p̂ − p)² = z²·p·(1 − p)/n (Wilson 1927).
  z2 = 1.959964**2
  roots = np.roots([1 + z2 / 3, -(4 / 3 + z2 / 3), 4 / 9])
  assert found.interval == pytest.approx(sorted(roots))


def test_of_all_tokens_but_the_first_four_of_six_are_right():
  found = measured(AlwaysOne())
  assert found.value == pytest.approx(4 / 6) and '6 tokens' in found.note
  # Windows have 2, 1 and 1 right of 2; their mean 4/3 has the variance of the three over three.
  assert found.standard_error == pytest.approx(math.sqrt(1 / 3 / 3) / 2)
  assert found.interval is None


def test_nothing_to_measure():
  found = measured(AlwaysOne(), counted=np.zeros(X.shape, bool))
  assert found[:3] == (None, None, 'no token of the evaluated split counts')
  assert measured(Method()).note == 'the model has no most probable token'
