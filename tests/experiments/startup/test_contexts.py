"""Text in windows of several contexts: the same tokens, and the same parameters."""

import jax
import numpy as np
import pytest

from common.config import ConfigError
from common.data.builders.text import cut_windows
from common.data.pipeline import Data
from common.data.sources import GivenSource
from common.data.spec import DataSpec
from common.data.tokenizers import Bytes
from common.evaluation.texts.windows import joined
from experiments import families
from experiments.startup.contexts import at_context

STREAM = np.random.default_rng(0).integers(0, 256, 35).astype(np.uint8)
SPEC = DataSpec('text', 'text', (5,), 256, num_train=8, tokenizer=Bytes())
DATA = Data(SPEC, {'test': GivenSource({'x': cut_windows(STREAM, 4, 'test')})})


def config_of(**changes):
  return families.load_config(
    'autoregressive/text:file',
    {'data.context': 4, 'network.width': 8, 'network.heads': 2, 'network.layers': 1} | changes,
  )


def test_joined_windows_are_those_of_the_longer_context():
  longer = joined(DATA, 12)
  assert longer.spec.shape == (13,) and len(longer.splits['test']) == 2
  found = longer.splits['test'].gather(np.array([1, 0]))['x']
  np.testing.assert_array_equal(found, cut_windows(STREAM, 12, 'test')[[1, 0]])


@pytest.mark.parametrize('positions', ['sinusoidal', 'rotary', 'alibi', 'none'])
def test_a_model_without_a_table_of_positions_keeps_its_parameters(positions):
  config = config_of(**{'network.positions': positions, 'evaluation.context': 8})
  method = families.build(config, SPEC)
  params, _ = jax.eval_shape(method.init, jax.random.key(0), SPEC.batch_struct(1))
  longer, data = at_context(config, method, DATA, params)
  batch = data.spec.batch_struct(3)
  assert jax.eval_shape(longer.nll, params, batch, jax.random.key(0)).nats.shape == (3,)
  assert longer.ordering.length == 9 and data.spec.shape == (9,)


@pytest.mark.parametrize(
  ('changes', 'message'),
  [
    ({'evaluation.context': 8}, "depend on the length.*network.positions='alibi'"),
    ({'evaluation.context': 6}, 'evaluation.context=6 must be a multiple of data.context=4'),
  ],
)
def test_other_models_and_lengths_are_refused(changes, message):
  config = config_of(**{'network.positions': 'learned'}, **changes)
  method = families.build(config, SPEC)
  params, _ = jax.eval_shape(method.init, jax.random.key(0), SPEC.batch_struct(1))
  with pytest.raises(ConfigError, match=message):
    at_context(config, method, DATA, params)


def test_other_data_are_refused():
  spec = DataSpec('rolls', 'rolls', (5, 88), 2, num_train=8)
  with pytest.raises(ConfigError, match="is for windows of a text, and 'rolls' has none"):
    joined(DATA._replace(spec=spec), 8)
