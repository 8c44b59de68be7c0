"""Beam search for the most probable sequence, with several candidates side by side.

At each step every live beam is extended by every value, and the best `beams` candidates stay. A
candidate that ends in a stop moves from the beams to a list of finished ones, of which the best
`beams` are kept; only the best `beams` candidates may finish. Sequences are ranked by
log-probability / (emissions drawn)^length_penalty, so a penalty above 0 favours longer ones. (Most
libraries use this form; Wu et al. 2016, section 7, divide by ((5 + length) / 6)^penalty.)
"""

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from autoregressive.decoding.runner import Runner
from autoregressive.decoding.sequences import Limits, Prompt, common_prefix, stops_at
from common.attention import MASKED
from common.config import ConfigError

IMPOSSIBLE = 2 * MASKED  # below MASKED, so that a masked live beam still ranks before it


class Beams(NamedTuple):
  """Candidates of each sample.

  Attributes:
    emissions: the sequences; 0 beyond their ends.
    log_prob: log-probability of each drawn emission, in nats; 0 for the prompt, and beyond the end.
    scores: log-probability of the drawn emissions, in nats; after the length penalty if finished.
    lengths: number of emissions, the stop included.
  """

  emissions: Int[Array, 'batch beams length']
  log_prob: Float[Array, 'batch beams length']
  scores: Float[Array, 'batch beams']
  lengths: Int[Array, 'batch beams']


class Carry(NamedTuple):
  """The state that one step passes to the next: position, input and cache of each beam, beams."""

  i: Int[Array, '']
  inputs: Float[Array, 'rows 1 width']
  cache: Any
  live: Beams
  finished: Beams


def beam_search(
  runner: Runner,
  prompt: Prompt,
  beams: int,
  length_penalty: Float[Array, ''] | float = 1.0,
  limits: Limits | None = None,
) -> Beams:
  """The best sequences found for each sample, best first. Pure: the caller compiles it.

  Args:
    runner: a model whose emissions are single values, with its parameters, unrolled.
    prompt: the given beginning of each sample.
    beams: candidates kept per sample.
    length_penalty: exponent of the length, see the top of this module.
    limits: size of the prefix, and where sequences end; the offset is not used.

  Raises:
    ConfigError: for a model whose emissions are not single values of a vocabulary.
  """
  if runner.model.values != 1 or not runner.model.head.discrete:
    raise ConfigError(
      'beam search needs emissions of one value each, from a vocabulary: set sampling.beams=1'
    )
  return _Search(runner, prompt, beams, length_penalty, limits or Limits()).run()


@dataclasses.dataclass(frozen=True)
class _Search:
  """The arguments of `beam_search`, which stay the same at every step."""

  runner: Runner
  prompt: Prompt
  beams: int
  length_penalty: Float[Array, ''] | float
  limits: Limits

  @property
  def end(self) -> Int[Array, ''] | int:
    """Number of emissions to decode, the prompt included."""
    return self.prompt.emissions.shape[1] if self.limits.end is None else self.limits.end

  def run(self) -> Beams:
    """Prefill, one step per emission, then the best of the finished and live candidates."""
    carry = jax.lax.while_loop(self.can_improve, self.step, self.start())
    live = carry.live
    live = live._replace(scores=self.ranked(live.scores, carry.i - self.prompt.lengths))
    # If the loop ended early, no live beam can beat the finished ones.
    unfinished = jnp.where(carry.i == self.end, live.scores, IMPOSSIBLE)
    return _best(_join(carry.finished, live._replace(scores=unfinished)), self.beams)

  def ranked(
    self, scores: Float[Array, 'batch some'], drawn: Int[Array, 'batch']
  ) -> Float[Array, 'batch some']:
    """log-probability / drawn^length_penalty, given the number of drawn emissions."""
    # At least 1: an empty continuation has a score of 0 at any length.
    return scores / jnp.maximum(drawn, 1)[:, None].astype(jnp.float32) ** self.length_penalty

  def start(self) -> Carry:
    """The carry after the prefill, which all beams of a sample share."""
    emissions, beams = self.prompt.emissions, self.beams
    batch, length, _ = emissions.shape
    common, known = common_prefix(self.prompt, self.limits)
    prefilled = self.runner.prefill_prompt(common, known, length, self.limits.chunk)
    inputs, cache = jax.tree.map(lambda x: jnp.repeat(x, beams, axis=0) if x.ndim else x, prefilled)
    given = jnp.where(jnp.arange(length) < known, emissions[..., 0], 0)
    live = Beams(
      jnp.repeat(given[:, None], beams, axis=1),
      jnp.zeros((batch, beams, length)),
      # All beams are equal at first: only one may be extended, otherwise all would stay equal.
      jnp.where(jnp.arange(beams) == 0, jnp.zeros((batch, 1)), MASKED),
      jnp.full((batch, beams), known),
    )
    finished = live._replace(scores=jnp.full((batch, beams), IMPOSSIBLE))
    return Carry(known, inputs, cache, live, finished)

  def can_improve(self, carry: Carry) -> Bool[Array, '']:
    """Whether a live beam may still beat the worst finished one, at its best possible length.

    Log-probabilities only fall, so in the best case the rest has probability one. The rank is then
    highest at the full length with a penalty above 0, otherwise at the current length.
    """
    i, live = carry.i, carry.live
    best_length = jnp.where(self.length_penalty > 0, self.end, i)
    drawn = jnp.broadcast_to(best_length, self.prompt.lengths.shape) - self.prompt.lengths
    best = self.ranked(live.scores[:, :1], drawn)
    return (i < self.end) & (best[:, 0] > carry.finished.scores.min(-1)).any()

  def step(self, carry: Carry) -> Carry:
    """Extends every live beam by every value, and keeps the best."""
    runner, beams, i = self.runner, self.beams, carry.i
    outputs, cache = runner.extend(carry.inputs, carry.cache)
    candidates, parent = self.candidates(i, carry.live, outputs[:, 0])
    finished = carry.finished
    if self.limits.stop is not None:
      candidates, finished = self.finish(i, candidates, finished)
    _, chosen = jax.lax.top_k(candidates.scores, beams)
    live = jax.tree.map(lambda x: _take(x, chosen), candidates)
    # Each beam continues from the cache of the beam that it extends.
    extended = _take(parent, chosen)
    cache = jax.tree.map(lambda x: _take_rows(x, extended) if x.ndim else x, cache)
    inputs = runner.embed(live.emissions[:, :, i].reshape(-1, 1, 1))
    return Carry(i + 1, inputs, cache, live, finished)

  def candidates(
    self, i: Int[Array, ''], live: Beams, outputs: Float[Array, 'rows size']
  ) -> tuple[Beams, Int[Array, 'batch candidates']]:
    """The best one-value extensions of the live beams, and the beam that each of them extends."""
    prompt, head, beams = self.prompt, self.runner.model.head, self.beams
    batch, vocabulary = prompt.emissions.shape[0], head.vocabulary
    # Rows are [batch · beams]: the beams of a sample lie next to each other.
    log_probs = jax.nn.log_softmax(head.logits(outputs)[:, 0])
    log_probs = log_probs.reshape(batch, beams, vocabulary)
    # Within a prompt only the given value is possible, with log-probability 0.
    given = jax.nn.one_hot(prompt.emissions[:, i, 0], vocabulary, dtype=bool)
    fed = i < prompt.lengths
    forced = jnp.where(given, 0.0, MASKED)[:, None]
    log_probs = jnp.where(fed[:, None, None], forced, log_probs)
    # log p(e_≤i) = log p(e_<i) + log p(e_i | e_<i) of every beam and value, [batch, beams · V].
    total = (live.scores[..., None] + log_probs).reshape(batch, -1)
    # At most one value per beam and stop ends a sequence, so at least `beams` candidates stay live.
    stops = 0 if self.limits.stop is None else self.limits.stop.shape[0]
    number = min((1 + stops) * beams, beams * vocabulary)
    scores, flat = jax.lax.top_k(total, number)
    # A flat index is beam · V + value.
    parent, value = flat // vocabulary, (flat % vocabulary).astype(jnp.int32)
    emissions = _take(live.emissions, parent).at[:, :, i].set(value)
    each = jnp.where(fed[:, None], 0.0, _take(log_probs.reshape(batch, -1), flat))
    log_prob = _take(live.log_prob, parent).at[:, :, i].set(each)
    return Beams(emissions, log_prob, scores, jnp.full(scores.shape, i + 1)), parent

  def finish(self, i: Int[Array, ''], candidates: Beams, finished: Beams) -> tuple[Beams, Beams]:
    """Moves candidates that end in a stop to the finished ones: (live, finished)."""
    lengths, scores = self.prompt.lengths, candidates.scores
    prompt_lengths = jnp.broadcast_to(lengths[:, None], scores.shape)
    ends = stops_at(candidates.emissions, i, prompt_lengths, self.limits.stop)
    # Candidates are sorted: only the first `beams` of them could have stayed live.
    eligible = ends & (jnp.arange(scores.shape[1]) < self.beams)
    closed = jnp.where(eligible, self.ranked(scores, i + 1 - lengths), IMPOSSIBLE)
    finished = _best(_join(finished, candidates._replace(scores=closed)), self.beams)
    # A candidate that ended is never live again, even if it was not eligible.
    return candidates._replace(scores=jnp.where(ends, IMPOSSIBLE, scores)), finished


def _take(x: Array, chosen: Int[Array, 'batch beams']) -> Array:
  """x[b, chosen[b]] for each sample b."""
  return jax.vmap(lambda row, which: row[which])(x, chosen)


def _take_rows(x: Array, chosen: Int[Array, 'batch beams']) -> Array:
  """Like `_take`, of rows [batch · beams, ...]."""
  # Within each sample: a device that has some of the samples needs no rows of the others.
  return _take(x.reshape(*chosen.shape, *x.shape[1:]), chosen).reshape(x.shape)


def _join(one: Beams, other: Beams) -> Beams:
  return jax.tree.map(lambda a, b: jnp.concatenate([a, b], 1), one, other)


def _best(candidates: Beams, beams: int) -> Beams:
  """The best of each sample's candidates, best first."""
  _, chosen = jax.lax.top_k(candidates.scores, beams)
  return jax.tree.map(lambda x: _take(x, chosen), candidates)
