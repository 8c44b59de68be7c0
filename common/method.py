"""The one interface that every family implements; the shared code knows nothing else about them.

A generative model is four pure functions: how to initialise, train, sample and evaluate it.
Training, checkpointing, evaluation, sampling and studies are written once, against `Method`.
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import Array, Bool, Float, Int, Key

from common import flops
from common.devices.mesh import mesh_of, scope

PyTree = Any
# Arrays 'x': data; 'label': class; 'weight': 0 where it is padding; 'counted': which positions of
# an example its loss and likelihood count.
Batch = Mapping[str, Any]


class NotFiniteError(ValueError):
  """Samples or likelihoods are NaN or infinite. The message says how many."""


class Context(NamedTuple):
  """What a loss may use besides parameters and data.

  Attributes:
    step: the optimiser step, a scalar array.
    ema: exponential moving average of the parameters, a pytree like them.
    training: True in training, False in evaluation (no dropout). A Python value.
    index: [batch] position of each example in the global batch. The random key of an example is
      derived from it, and is therefore the same however the batch is split.
    batch_size: the size of the global batch. A Python value.
  """

  step: Int[Array, '']
  ema: PyTree
  training: bool
  index: Int[Array, 'batch']
  batch_size: int


class Aux(NamedTuple):
  """What a loss returns besides its value.

  Attributes:
    metrics: scalars, each a mean over the same `count` as the loss.
    memory: what the method remembers until the next step, a pytree like the one from `init`.
    count: the number of examples or emissions over which the loss is a mean. When gradients are
      combined, it is the weight of this micro-batch or of this device's part.
  """

  metrics: Mapping[str, Float[Array, '']]
  memory: PyTree
  count: Float[Array, '']


class Watch(NamedTuple):
  """Looks at samples of text or tokens while they are drawn.

  Attributes:
    ended: given the parts so far [num, parts], says which samples have ended, [num].
    every: number of parts after which it is asked again.
  """

  ended: Callable[[Int[np.ndarray, 'num parts']], Bool[np.ndarray, 'num']]
  every: int


class Request(NamedTuple):
  """What to sample.

  Attributes:
    num: the number of samples.
    label: [num] the class of each sample, or None.
    past: the given part of each sample (a prompt, an image to edit), or None.
    mask: True where `past` is given, or None.
    options: sampler settings that replace those of the config; `Method.sample` raises an error for
      unknown names.
    watch: may end samples that are drawn part by part; drawing stops once it has ended all. None:
      nobody looks.
  """

  num: int
  label: Int[Array, 'num'] | None = None
  past: Array | None = None
  mask: Array | None = None
  options: Mapping[str, Any] = {}
  watch: Watch | None = None

  def part(self, index: Int[np.ndarray, 'part']) -> 'Request':
    """The request for some of the samples."""
    label, past, mask = self.label, self.past, self.mask
    if mask is not None and np.ndim(mask) == np.ndim(past):
      mask = mask[index]  # otherwise all samples share it
    label, past = (None if x is None else x[index] for x in (label, past))
    return self._replace(num=len(index), label=label, past=past, mask=mask)


class Samples(NamedTuple):
  """The result of sampling.

  Attributes:
    x: samples in data space, [num, *DataSpec.shape].
    evaluations: network evaluations per sample. The two branches of guidance count as two, although
      they run as one batch.
    log_prob: [num, parts] log-probability in nats of each part under the unmodified model (no
      temperature, no truncation); 0 for given parts. None if the method does not draw parts.
    lengths: [num] number of parts of each sample, if samples may stop early; None: all parts.
    finite: [num] whether all values of a sample were finite before they were rounded to whole
      numbers; None: the method rounds nothing.
  """

  x: Array
  evaluations: int
  log_prob: Array | None = None
  lengths: Array | None = None
  finite: Bool[Array, 'num'] | None = None

  def first(self, num: int) -> 'Samples':
    """The first `num` samples."""
    parts = {k: v for k, v in self._asdict().items() if k != 'evaluations' and v is not None}
    return self._replace(**{name: value[:num] for name, value in parts.items()})

  def num_not_finite(self) -> int:
    """The number of samples with a value or a log-probability that is NaN, or an infinite value."""
    # Rounding turns NaN into a number, and an argmax over NaN is a class: `x` alone hides both.
    bad = _any_in_each(~np.isfinite(np.asarray(self.x)))
    if self.log_prob is not None:
      bad |= _any_in_each(np.isnan(np.asarray(self.log_prob)))
    if self.finite is not None:
      bad |= ~np.asarray(self.finite)
    return int(bad.sum())


def _any_in_each(marks: Bool[np.ndarray, 'num ...']) -> Bool[np.ndarray, 'num']:
  """Whether any mark of a sample is set."""
  return marks.reshape(len(marks), -1).any(1)


class Likelihood(NamedTuple):
  """Negative log-likelihood, or an upper bound of it, in nats per example.

  Attributes:
    nats: the negative log-likelihood or its bound.
    standard_error: the standard error of the estimate of `nats`; zero if it is exact.
    dims: the number of modelled dimensions; None: all of them. A window of text has one less than
      tokens, because its first token is only conditioned on.
    parts: the terms that add up to `nats`, by name; empty if there is only one term.
  """

  nats: Float[Array, 'batch']
  standard_error: Float[Array, 'batch']
  dims: Float[Array, 'batch'] | None = None
  parts: Mapping[str, Float[Array, 'batch _']] = {}


class Hits(NamedTuple):
  """How many tokens or frames of each example a model predicts, or at which noise levels its class.

  Attributes:
    right: those that are the most probable one, given everything before; of a classifier, for each
      noise level whether the class is the most probable one.
    total: those that count.
  """

  right: Float[Array, 'batch *levels']
  total: Float[Array, 'batch *levels']


class Program(NamedTuple):
  """A jitted function and its arguments, some of them static."""

  function: Callable[..., Any]
  arguments: tuple[Any, ...]

  def run(self) -> Any:
    """The result of the call."""
    return self.function(*self.arguments)


class Method:
  """A generative model: four pure functions, and what it supports.

  Each family implements it with one frozen dataclass, so that tracebacks and profiles name the
  family and the function. A method is compared and hashed by identity, so it can be a static
  argument of a compiled program.

  Attributes:
    labelled: whether samples of data with classes can be requested by class.
    has_likelihood: whether `nll` can be called.
    likelihood_note: what a reader should know about the values of `nll`.
    predicts: whether `hits` can be called.
    noise_levels: of a classifier of noisy data, which draws no samples: the noise levels σ/α at
      which `hits` classifies each example; (): the method draws samples.
    reconstructs: whether it is an autoencoder, whose task `reconstruct` takes images as `past`.
    context: of open-ended data, tokens or frames that the model handles at once; 0: an example.
    init_examples: training examples that the initial parameters depend on; 0: none.
    parts: of an example, drawn one after the other (pixels, patches, tokens or frames); 1: all at
      once.
  """

  labelled: bool = True
  has_likelihood: bool = True
  likelihood_note: str = ''
  predicts: bool = False
  noise_levels: tuple[float, ...] = ()
  reconstructs: bool = False
  context: int = 0
  init_examples: int = 0
  parts: int = 1

  def init(self, key: Key[Array, ''], batch: Batch) -> tuple[PyTree, PyTree]:
    """(params, memory) before the first step; only the shapes in `batch` matter, unless
    `init_examples` asks for training examples."""
    raise NotImplementedError

  def loss(
    self, params: PyTree, memory: PyTree, batch: Batch, key: Key[Array, ''], context: Context
  ) -> tuple[Float[Array, ''], Aux]:
    """The loss of a batch. `key` is the key of the step, the same on every device."""
    raise NotImplementedError

  def sample(self, params: PyTree, key: Key[Array, ''], request: Request) -> Samples:
    """Draws samples. Called from the host; compiles one program per number of samples."""
    raise NotImplementedError

  def draw(self, params: PyTree, key: Key[Array, ''], request: Request) -> Samples:
    """Like `sample`, for samples that are kept or measured, on all devices of the parameters.

    Each sample has its own random numbers, so samples do not depend on the number of devices.

    Raises:
      NotFiniteError: some samples are not finite.
    """
    with scope(mesh_of(params)):
      samples = self.sample(params, key, request)
    if bad := samples.num_not_finite():
      raise NotFiniteError(
        f'{bad} of {request.num} samples are not finite (NaN or infinite): use another checkpoint, '
        'such as --step=best, or other sampler settings, such as more steps or less guidance'
      )
    return samples

  def check_request(self, params: PyTree | None, request: Request) -> None:
    """Refuses what `sample` would refuse, but draws nothing.

    Args:
      params: shapes and types of the parameters, or the parameters; None: only checks what does not
        depend on them.
      request: what to sample.

    Raises:
      ValueError: as `sample`.
    """

  def sampling_program(self, params: PyTree, request: Request) -> Program:
    """The program that `sample` runs for a request, to compile it without running it.

    Args:
      params: shapes and types of the parameters.
      request: what to sample.

    Raises:
      ValueError: as `sample`.
    """
    raise NotImplementedError

  def evaluation_flops(self, params: PyTree, request: Request) -> int:
    """Operations of one network evaluation for one sample, as `common.flops` counts them.

    Args:
      params: the parameters.
      request: what to sample, with `num` = 1 and nothing given.
    """
    # A sample drawn part by part has one evaluation in the body of its loop, which counts once.
    return flops.count(flops.trace(self.sampling_program(params, request).run))

  def nll(self, params: PyTree, batch: Batch, key: Key[Array, '']) -> Likelihood:
    """Negative log-likelihood of each example. Pure: the caller compiles it."""
    raise NotImplementedError

  def hits(self, params: PyTree, batch: Batch) -> Hits:
    """What is predicted right of each example (see `Hits`). Pure: the caller compiles it."""
    raise NotImplementedError


def example_keys(key: Key[Array, ''], index: Int[Array, 'batch']) -> Key[Array, 'batch']:
  """One key per example, the same however the batch is split over devices or micro-batches."""
  # `fold_in` of the index, not `split`: the key of an example must not depend on the number of
  # examples on this device.
  return jax.vmap(jax.random.fold_in, (None, 0))(key, index)


def example_weights(batch: Batch) -> Float[Array, 'batch']:
  """The weight of each example: `batch['weight']` (0 for padding in a last batch), or 1."""
  if 'weight' in batch:
    return batch['weight']
  return jax.numpy.ones(batch['x'].shape[0], jax.numpy.float32)
