"""Text that is evaluated in longer windows than those of training (`evaluation.context`)."""

from collections.abc import Mapping

import jax

from common.config import ConfigError
from common.data.pipeline import Data
from common.evaluation.texts.windows import joined
from common.method import Method, PyTree
from experiments import families


def at_context(config: Mapping, method: Method, data: Data, params: PyTree) -> tuple[Method, Data]:
  """The method and the data in windows of `evaluation.context` tokens; both as they are if it is 0.

  Args:
    config: a complete config.
    method: the method of the config.
    data: its data.
    params: its parameters, or their shapes.

  Raises:
    ConfigError: for data that are not windows of a text, a length that is not a multiple of theirs,
      or a model whose parameters depend on the length.
  """
  context = config['evaluation']['context']
  if not context:
    return method, data
  data = joined(data, context)
  method = families.build(config, data.spec)
  needed, _ = jax.eval_shape(method.init, jax.random.key(0), data.spec.batch_struct(1))
  shapes = lambda tree: [leaf.shape for leaf in jax.tree.leaves(tree)]
  if shapes(needed) != shapes(params):
    raise ConfigError(
      f'evaluation.context={context}: the parameters of this model depend on the length, such as a '
      "table of positions; train one with network.positions='alibi', or set evaluation.context=0"
    )
  return method, data
