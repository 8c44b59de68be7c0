"""Bits per dimension of a split, and how much of it is predicted right."""

import functools
import math
from collections.abc import Callable, Iterable, Mapping
from typing import NamedTuple

import jax
import numpy as np
from jaxtyping import Array, Float, Key

from common.devices.mesh import even_index, mesh_of, scope, split_batch, whole
from common.method import Batch, Hits, Likelihood, Method, NotFiniteError, PyTree


class BitsPerDim(NamedTuple):
  """Mean over a split of the negative log-likelihood (or an upper bound), in bits per dimension.

  Attributes:
    value: the mean.
    standard_error: the error of the mean, as an estimate for the distribution of the examples. It
      includes the estimation error of each example, which is part of the spread over examples.
      None for a single example, which has no spread.
    estimation_error: the error of the mean over exactly these examples: 0 if `nll` is exact.
    num: number of examples.
    parts: the terms of `value`, in bits per dimension: see `common.method.Likelihood`.
  """

  value: float
  standard_error: float | None
  estimation_error: float
  num: int
  parts: Mapping[str, tuple[float, ...]] = {}


def bits_per_dim(
  method: Method,
  params: PyTree,
  batches: Iterable[Batch],
  num_dims: int,
  key: Key[Array, ''],
  pixels: Float[np.ndarray, 'num'] | None = None,
) -> BitsPerDim:
  """Bits/dim of the examples of `batches` whose weight is not 0, on all devices of `params`.

  Args:
    method: a method with a likelihood.
    params: its parameters.
    batches: batches of one shape, so that `nll` compiles once; 'weight' 0 marks padding.
    num_dims: dimensions of an example.
    key: batch i gets `fold_in(key, i)`.
    pixels: of codes, nats of the image of each example given its codes, to add. `Likelihood.dims`
      is then ignored, and the parts are those of codes and pixels.

  Raises:
    ValueError: there are no examples.
    NotFiniteError: a likelihood is not finite.
  """
  nats, errors, dims, parts = [], [], [], {}
  for index, batch in enumerate(batches):
    found = likelihood_of(method, params, batch, jax.random.fold_in(key, index))
    nats.append(found.nats)
    errors.append(found.standard_error)
    if found.dims is not None:
      dims.append(found.dims)
    for name, terms in found.parts.items():
      parts.setdefault(name, []).append(terms)
  # Not every dimension is modelled: the first token of a window is only given, for example.
  modelled = np.concatenate(dims) if dims and pixels is None else num_dims
  own = np.concatenate(nats or [[]])
  if pixels is not None:
    parts = {'codes': [own[:, None]], 'pixels': [pixels[:, None]]}
    own = own + pixels
  result = summary(own, np.concatenate(errors or [[]]), modelled)
  unit = float(np.mean(modelled)) * math.log(2.0)  # nats of one bit in every dimension
  terms = {name: tuple(np.concatenate(rows).mean(axis=0) / unit) for name, rows in parts.items()}
  return result._replace(parts=terms)


def likelihood_of(method: Method, params: PyTree, batch: Batch, key: Key[Array, '']) -> Likelihood:
  """The likelihood of the examples of a batch whose weight is not 0, in float64 on the host."""
  return _of_examples(nll, method, params, batch, key)


def hits_of(method: Method, params: PyTree, batch: Batch) -> Hits:
  """The hits of the examples of a batch whose weight is not 0, in float64 on the host."""
  return _of_examples(hits, method, params, batch)


def _of_examples(
  measure: Callable[..., PyTree], method: Method, params: PyTree, batch: Batch, *key: Array
) -> PyTree:
  """A compiled measure of the examples of a batch whose weight is not 0, on the host."""
  mesh, rows = mesh_of(params), len(batch['x'])
  index = even_index(rows, mesh)
  with scope(mesh):
    found = measure(method, params, {name: x[index] for name, x in batch.items()}, *key)
  # The last batch of a split is padded; its padding must not count, nor what `index` repeats.
  kept = np.flatnonzero(batch.get('weight', np.ones(rows)))
  return jax.tree.map(lambda x: np.asarray(x, np.float64)[kept], found)


# The method is a static argument, hashed by identity: there is one program per method.
@functools.partial(jax.jit, static_argnums=0)
def nll(method: Method, params: PyTree, batch: Batch, key: Key[Array, '']) -> Likelihood:
  """`Method.nll`, compiled: each device has its part of the batch."""
  return whole(method.nll(params, split_batch(batch), key))


@functools.partial(jax.jit, static_argnums=0)
def hits(method: Method, params: PyTree, batch: Batch) -> Hits:
  """`Method.hits`, compiled in the same way."""
  return whole(method.hits(params, split_batch(batch)))


def summary(nats: np.ndarray, errors: np.ndarray, num_dims: int | np.ndarray) -> BitsPerDim:
  """Σ nats / Σ num_dims over the examples, in bits/dim, with the errors of this ratio."""
  num = len(nats)
  if not num:
    raise ValueError('a likelihood needs at least one example; the split is empty')
  if not np.isfinite(nats).all():
    raise NotFiniteError(f'{int((~np.isfinite(nats)).sum())} of {num} likelihoods are not finite')
  num_dims = np.broadcast_to(num_dims, nats.shape)
  unit = float(num_dims.mean()) * math.log(2.0)
  # The error of a ratio of means, to first order: the error of the mean of these residuals.
  residual = nats - num_dims * (nats.mean() / num_dims.mean())
  spread = float(residual.std(ddof=1)) / math.sqrt(num) / unit if num > 1 else None
  estimation = math.sqrt(np.sum(errors**2)) / num  # independent errors add in quadrature
  return BitsPerDim(float(nats.mean()) / unit, spread, estimation / unit, num)
