"""The loss on the validation split, with the averaged parameters."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Key

from common.data.pipeline import Data, evaluation_batches
from common.data.sources import ChosenExamples
from common.devices.mesh import mesh_of, scope
from common.method import Batch, Context, Method, PyTree
from common.training.state import VALIDATION_STREAM, TrainState, stream_key


def validation_loss(
  method: Method,
  state: TrainState,
  data: Data,
  batch_size: int,
  sharding: jax.sharding.Sharding,
  seed: int,
  number: int = 0,
) -> dict[str, float]:
  """Means of the loss and its metrics over the validation split, with the averaged parameters.

  Args:
    method: the method.
    state: a logical state (see `parallel.PlacedStep`).
    data: the data.
    batch_size: examples in a batch; the last batch is padded.
    sharding: the sharding of a batch.
    seed: the seed of the config.
    number: examples drawn from the split with replacement, anew at each step; 0: all of it.
  """
  source = data.splits['validation']
  if number:
    rng = np.random.default_rng((seed, int(state.step)))
    source = ChosenExamples(source, rng.integers(len(source), size=number))
  # The same keys at every call, so that checkpoints are compared with the same noise.
  key = stream_key(seed, VALIDATION_STREAM)
  totals: dict[str, float] = {}
  weights = 0.0
  for n, batch in enumerate(evaluation_batches(source, batch_size)):
    # With their global shape: every process has the whole batch, and puts what its devices need.
    batch = {
      k: jax.make_array_from_process_local_data(sharding, v, v.shape) for k, v in batch.items()
    }
    # One key per batch: within it, examples are numbered from 0 in every batch.
    with scope(mesh_of(state.ema)):
      metrics, count = evaluation_step(
        method, state.ema, state.memory, batch, jax.random.fold_in(key, n), state.step
      )
    # Batches are weighted by their counts: the last batch has fewer examples.
    for name, value in jax.device_get(metrics).items():
      totals[name] = totals.get(name, 0.0) + float(value * count)
    weights += float(count)
  return {name: total / weights for name, total in totals.items()}


# The method is a static argument, hashed by identity: there is one program per method.
@functools.partial(jax.jit, static_argnums=0)
def evaluation_step(
  method: Method,
  params: PyTree,
  memory: PyTree,
  batch: Batch,
  key: Key[Array, ''],
  step: Int[Array, ''],
) -> tuple[dict[str, Float[Array, '']], Float[Array, '']]:
  """(loss and metrics, count) of one batch, without dropout."""
  size = batch['x'].shape[0]
  context = Context(step, params, False, jnp.arange(size, dtype=jnp.int32), size)
  loss, aux = method.loss(params, memory, batch, key, context)
  return dict(aux.metrics, loss=loss), aux.count
