"""The one interface that both families implement, and all that the shared code knows of them.

A generative model, with the way it is trained and sampled, is four pure functions. Training,
checkpointing, evaluation, sampling and studies are written once, against `Method`.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
from jaxtyping import Array, Float, Int, Key

PyTree = Any
Batch = Mapping[str, Any]  # arrays 'x': data; 'label': class; 'weight': 0 where it is padding


class Context(NamedTuple):
  """What a loss may know beside parameters and data.

  Attributes:
    step: the optimiser step, a scalar array.
    ema: exponential moving average of the parameters, a pytree like them.
    training: True in training, False in evaluation (no dropout). A Python value.
    index: [batch] position of each example in the global batch. Randomness that belongs to an
      example is derived from it, so it is the same however the batch is split.
    batch_size: the size of the global batch. A Python value.
  """

  step: Int[Array, '']
  ema: PyTree
  training: bool
  index: Int[Array, 'batch']
  batch_size: int


class Aux(NamedTuple):
  """What a loss returns beside its value.

  Attributes:
    metrics: scalars, each a mean over what was counted.
    memory: what the method remembers until the next step, of the structure that `init` gave.
    count: over how much the loss is a mean (examples or emissions): the weight of this
      micro-batch, or of this device's part, when gradients are combined.
  """

  metrics: Mapping[str, Float[Array, '']]
  memory: PyTree
  count: Float[Array, '']


class Request(NamedTuple):
  """What to sample.

  Attributes:
    num: how many samples.
    label: [num] class of each, or None.
    past: the given part of each sample (a prompt, an image to edit), or None.
    mask: where `past` holds, or None.
    options: sampler settings that replace those of the config; `Method.sample` refuses names it
      does not know.
  """

  num: int
  label: Int[Array, 'num'] | None = None
  past: Array | None = None
  mask: Array | None = None
  options: Mapping[str, Any] = {}


class Samples(NamedTuple):
  """What was sampled.

  Attributes:
    x: samples in data space, [num, *DataSpec.shape].
    evaluations: sequential calls of the network on behalf of a sample; two branches of guidance
      that run side by side count as two.
    log_prob: [num, parts] log-probability in nats of each part drawn, under the model itself; 0
      where it was given. None where the method draws no parts.
    lengths: [num] parts of each sample, where it may have stopped before its end; None: all.
  """

  x: Array
  evaluations: int
  log_prob: Array | None = None
  lengths: Array | None = None


class Likelihood(NamedTuple):
  """Negative log-likelihood, or an upper bound of it, in nats per example.

  `standard_error` is that of the estimate for this example: zero where the value is exact. `dims`
  says how many of its dimensions are modelled, where that is not all: the first token of a window
  of text is only given. `parts` are what `nats` is the sum of, by name, each the sum of its terms;
  empty where there is nothing to tell apart.
  """

  nats: Float[Array, 'batch']
  standard_error: Float[Array, 'batch']
  dims: Float[Array, 'batch'] | None = None
  parts: Mapping[str, Float[Array, 'batch _']] = {}


class Method:
  """A generative model: four pure functions, and what can be asked of it.

  Each family has one frozen dataclass that implements it, so that tracebacks and profiles name the
  family and the function they are in. A method is compared and hashed by identity: a compiled
  program may be kept for it.

  Attributes:
    labelled: whether samples can be requested by class, where the data has classes; otherwise a
      request has no labels.
    has_likelihood: whether `nll` can be called.
  """

  labelled: bool = True
  has_likelihood: bool = True

  def init(self, key: Key[Array, ''], batch: Batch) -> tuple[PyTree, PyTree]:
    """(params, memory) before the first step; only the shapes in `batch` matter."""
    raise NotImplementedError

  def loss(
    self, params: PyTree, memory: PyTree, batch: Batch, key: Key[Array, ''], context: Context
  ) -> tuple[Float[Array, ''], Aux]:
    """The loss of a batch. `key` is that of the step, the same on every device."""
    raise NotImplementedError

  def sample(self, params: PyTree, key: Key[Array, ''], request: Request) -> Samples:
    """Draws samples. Called from the host; inside is one compiled program per number of samples."""
    raise NotImplementedError

  def nll(self, params: PyTree, batch: Batch, key: Key[Array, '']) -> Likelihood:
    """Negative log-likelihood of each example. Pure: the caller compiles it."""
    raise NotImplementedError


@dataclasses.dataclass(frozen=True, eq=False)
class Functions(Method):
  """A method made of four separate functions."""

  init: Any
  loss: Any
  sample: Any
  nll: Any = None
  labelled: bool = True

  @property
  def has_likelihood(self) -> bool:
    return self.nll is not None


def example_keys(key: Key[Array, ''], index: Int[Array, 'batch']) -> Key[Array, 'batch']:
  """One key per example, the same however the batch is split over devices or micro-batches."""
  return jax.vmap(jax.random.fold_in, (None, 0))(key, index)


def example_weights(batch: Batch) -> Float[Array, 'batch']:
  """Weight of each example: 1, or what the batch says (0 for the padding of a last batch)."""
  if 'weight' in batch:
    return batch['weight']
  return jax.numpy.ones(batch['x'].shape[0], jax.numpy.float32)
