"""Beam search: the most probable sequence, looked for with several candidates side by side.

At each step every live beam is extended by every value and the best `beams` of all stay. A
candidate that ends in a stop leaves the beams for a list of finished ones, of which the best
`beams` are kept; only candidates among the first `beams` may finish. Sequences are ranked by
log-probability / (emissions drawn)^length_penalty (Wu et al. 2016 name the idea; this form is that
of most libraries): a penalty above 0 favours longer ones.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Num

from autoregressive.decoding.generate import Runner, stops_at
from autoregressive.model import Model
from common.attention import MASKED
from common.config import ConfigError


class Beams(NamedTuple):
  """Candidates of each sample.

  Attributes:
    emissions: their sequences; 0 beyond their ends.
    log_prob: of each emission drawn, in nats; 0 where it was given, and beyond the end.
    scores: log-probability in nats of what was drawn; of finished ones, with the length penalty.
    lengths: emissions, the stop included.
  """

  emissions: Int[Array, 'batch beams length']
  log_prob: Float[Array, 'batch beams length']
  scores: Float[Array, 'batch beams']
  lengths: Int[Array, 'batch beams']


def beam_search(
  model: Model,
  params: Any,
  given: Num[Array, 'batch length 1'],
  lengths: Int[Array, 'batch'],
  label: Int[Array, 'batch'] | None,
  beams: int,
  length_penalty: Float[Array, ''] | float = 1.0,
  prefix: int = 0,
  stop: Int[Array, 'stops longest'] | None = None,
  chunk: int = 0,
  end: Int[Array, ''] | int | None = None,
) -> Beams:
  """The best sequences found of each sample, best first. Pure, to be jitted by the caller.

  Args:
    model: a model of single values, whose layers are not stacked.
    params: its parameters.
    given: sequences of the full length; what lies beyond `lengths` is ignored.
    lengths: how many emissions of each are given.
    label: class of each, or None.
    beams: candidates kept per sample.
    length_penalty: see above.
    prefix, chunk, end: as `decoding.generate` takes them.
    stop: sequences of tokens that end one (`Options.stops`), or None.

  Raises:
    ConfigError: for a model whose emissions are no single values of a vocabulary.
  """
  if model.values != 1 or not model.head.discrete:
    raise ConfigError('beam search needs emissions of one value each, of a vocabulary')
  batch, length, _ = given.shape
  end = length if end is None else end
  known = jnp.minimum(lengths.min(), prefix)
  vocabulary = model.head.vocabulary
  runner = Runner(model, params)

  def ranked(scores, drawn):
    return scores / jnp.maximum(drawn, 1)[:, None].astype(jnp.float32) ** length_penalty

  def step(i, carry):
    inputs, cache, live, finished = carry
    outputs, cache = runner.extend(inputs, cache)
    log_probs = jax.nn.log_softmax(model.head.logits(outputs[:, 0])[:, 0])
    log_probs = log_probs.reshape(batch, beams, vocabulary)
    forced = jnp.where(jax.nn.one_hot(given[:, i, 0], vocabulary, dtype=bool), 0.0, MASKED)
    fed = i < lengths
    log_probs = jnp.where(fed[:, None, None], forced[:, None], log_probs)
    total = (live.scores[..., None] + log_probs).reshape(batch, -1)
    stops = 0 if stop is None else stop.shape[0]
    candidates = min((1 + stops) * beams, beams * vocabulary)  # so many that beams of them go on
    scores, flat = jax.lax.top_k(total, candidates)
    parent, value = flat // vocabulary, (flat % vocabulary).astype(jnp.int32)
    emissions = _take(live.emissions, parent).at[:, :, i].set(value)
    each = jnp.where(fed[:, None], 0.0, _take(log_probs.reshape(batch, -1), flat))
    log_prob = _take(live.log_prob, parent).at[:, :, i].set(each)
    grown = Beams(emissions, log_prob, scores, jnp.full(scores.shape, i + 1))
    if stop is not None:
      given_of_each = jnp.broadcast_to(lengths[:, None], scores.shape)
      ends = stops_at(emissions, i, given_of_each, stop)
      counts = ends & (jnp.arange(candidates) < beams)
      closed = jnp.where(counts, ranked(scores, i + 1 - lengths), 2 * MASKED)
      finished = _best(_join(finished, grown._replace(scores=closed)), beams)
      grown = grown._replace(scores=jnp.where(ends, 2 * MASKED, scores))
    scores, chosen = jax.lax.top_k(grown.scores, beams)
    live = jax.tree.map(lambda x: _take(x, chosen), grown)
    rows = (jnp.arange(batch)[:, None] * beams + _take(parent, chosen)).reshape(-1)
    cache = jax.tree.map(lambda x: x[rows] if x.ndim else x, cache)
    return runner.embed(live.emissions[:, :, i].reshape(-1, 1, 1)), cache, live, finished

  inputs, cache = runner.begin(given[:, :prefix], known, label, length, chunk)
  inputs, cache = jax.tree.map(
    lambda x: jnp.repeat(x, beams, axis=0) if x.ndim else x, (inputs, cache)
  )
  start = jnp.where(jnp.arange(length) < known, given[..., 0], 0)
  live = Beams(
    jnp.repeat(start[:, None], beams, axis=1),
    jnp.zeros((batch, beams, length)),
    jnp.where(jnp.arange(beams) == 0, jnp.zeros((batch, 1)), MASKED),  # one beam to begin with
    jnp.full((batch, beams), known),
  )
  finished = live._replace(scores=jnp.full((batch, beams), 2 * MASKED))

  def improves(now):
    """Whether a live beam may still beat the worst finished one, at its best possible length."""
    i, (_, _, live, finished) = now
    longest = jnp.where(length_penalty > 0, end, i)
    best = ranked(live.scores[:, :1], jnp.broadcast_to(longest, (batch,)) - lengths)
    return (i < end) & (best[:, 0] > finished.scores.min(-1)).any()

  i, (*_, live, finished) = jax.lax.while_loop(
    improves,
    lambda now: (now[0] + 1, step(*now)),
    (known, (inputs, cache, live, finished)),
  )
  live = live._replace(scores=ranked(live.scores, i - lengths))
  unfinished = jnp.where(i == end, live.scores, 2 * MASKED)  # those cut short take no part
  return _best(_join(finished, live._replace(scores=unfinished)), beams)


def _take(x: Array, chosen: Int[Array, 'batch beams']) -> Array:
  """x[b, chosen[b]] for each sample b."""
  return jax.vmap(lambda row, which: row[which])(x, chosen)


def _join(one: Beams, other: Beams) -> Beams:
  return jax.tree.map(lambda a, b: jnp.concatenate([a, b], 1), one, other)


def _best(candidates: Beams, beams: int) -> Beams:
  """The best of each sample's candidates, best first."""
  _, chosen = jax.lax.top_k(candidates.scores, beams)
  return jax.tree.map(lambda x: _take(x, chosen), candidates)
