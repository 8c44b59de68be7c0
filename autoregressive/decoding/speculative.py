"""Speculative decoding: a small model drafts, the target model checks several tokens per pass.

Leviathan et al. 2023, algorithm 1; Chen et al. 2023. Each round has three parts:

  propose   the draft draws tokens x_1 .. x_ahead from its distributions q
  verify    the target model computes its distributions p for all of them in one pass, and accepts
            each x with probability min(1, p(x) / q(x))
  commit    the first token that is not accepted is replaced by a draw from max(p - q, 0),
            normalised, and both caches are rewound to it

The result has exactly the distribution p of the target model, transforms included, for any draft q.
The samples of a batch advance together, by the smallest number accepted among them plus one. That
number is a stopping time: it does not depend on any token after the one at which it stops. So each
sample's distribution stays exact, but a large batch accepts fewer tokens per round. Given tokens
are always accepted, and a sample that has stopped accepts every token, so it does not delay the
others.
"""

import dataclasses
import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Key

from autoregressive.decoding.runner import Runner
from autoregressive.decoding.sequences import (
  Generated,
  Limits,
  Prompt,
  common_prefix,
  cut_at_stop,
  first_stop,
)
from autoregressive.decoding.transforms import LogitTransforms, needs_counts, transform
from autoregressive.heads.base import Head
from autoregressive.model import Model
from common.config import ConfigError

DRAFT, ACCEPT, REPLACE = range(3)  # the use of a random number, folded into its key


class Speculated(NamedTuple):
  """The drawn sequences, and the number of passes of the target model."""

  made: Generated
  rounds: Int[Array, '']


class Speculation(NamedTuple):
  """The arguments of `speculate`, which stay the same in every round.

  Attributes:
    target, draft: the model to draw from, and the draft.
    keys: one per sample.
    given: tokens of the prompts, with room for the last round, which may run past the end.
    lengths: number of tokens of each prompt.
    transforms: those that are on.
    greedy: whether distributions are one-hot at their mode. A Python value.
    ahead: tokens drafted per round. A Python value.
    limits: limits of the sequences, with `end` set.
  """

  target: Runner
  draft: Runner
  keys: Key[Array, 'batch']
  given: Int[Array, 'batch room']
  lengths: Int[Array, 'batch']
  transforms: LogitTransforms
  greedy: bool
  ahead: int
  limits: Limits

  @property
  def length(self) -> int:
    """Length of the sequences, without the room for the last round."""
    return self.given.shape[1] - self.ahead - 1


class ModelState(NamedTuple):
  """The state of one of the two models: its next input, and the cache of the inputs before it."""

  inputs: Float[Array, 'batch 1 width']
  cache: Any


class Progress(NamedTuple):
  """The state that one round passes to the next: position, rounds, both models, the sequences."""

  i: Int[Array, '']
  rounds: Int[Array, '']
  target: ModelState
  draft: ModelState
  tokens: Int[Array, 'batch room']
  log_prob: Float[Array, 'batch room']


class Proposal(NamedTuple):
  """Proposed tokens, the draft's distributions for them, and its cache with all of them."""

  tokens: Int[Array, 'batch ahead']
  q: Float[Array, 'batch ahead vocabulary']
  cache: Any


class Verdict(NamedTuple):
  """The judgement of the target model on a proposal.

  Attributes:
    outputs: its outputs for each proposed token, and for the token after them.
    p: its distributions.
    accepted: number of tokens that each sample accepts.
    cache: its cache, with all proposed tokens.
  """

  outputs: Float[Array, 'batch ahead+1 size']
  p: Float[Array, 'batch ahead+1 vocabulary']
  accepted: Int[Array, 'batch']
  cache: Any


def check_models(model: Model, draft: Model, transforms: LogitTransforms) -> None:
  """Raises ConfigError if the draft cannot work for the model, or with these transforms."""
  for one in (model, draft):
    if one.values != 1 or not one.head.discrete:
      raise ConfigError(
        'speculative decoding needs emissions of one value each, from a vocabulary: sample without '
        'a draft'
      )
    if not one.network.can_rewind:
      raise ConfigError(
        'speculative decoding needs networks whose cache can be rewound, such as the transformer; '
        f'{type(one.network).__name__} cannot: sample without a draft'
      )
  if model.head.vocabulary != draft.head.vocabulary:
    raise ConfigError(
      f'the draft has a vocabulary of {draft.head.vocabulary}, the model one of '
      f'{model.head.vocabulary}; speculative decoding needs the same'
    )
  # A draft may be trained without classes: its proposals then do not depend on the class.
  if draft.num_classes not in (0, model.num_classes):
    raise ConfigError(
      f'the draft has {draft.num_classes} classes, the model {model.num_classes}: train the draft '
      'on the same data, or without classes'
    )
  if needs_counts(transforms):
    raise ConfigError(
      'speculative decoding allows no repetition or frequency penalty: leave them at '
      'repetition_penalty=1 and frequency_penalty=0'
    )


def speculate(
  target: Runner,
  draft: Runner,
  keys: Key[Array, 'batch'],
  prompt: Prompt,
  transforms: LogitTransforms,
  greedy: bool = False,
  ahead: int = 4,
  limits: Limits | None = None,
) -> Speculated:
  """Draws the rest of sequences whose beginning is given. Pure: the caller compiles it.

  Args:
    target: the model to draw from, unrolled.
    draft: a cheaper model of the same vocabulary, unrolled.
    keys: one per sample.
    prompt: the given beginning of each sample.
    transforms: those that are on; they act on the logits of both models.
    greedy: take the mode instead of a draw. A Python value.
    ahead: tokens drafted per round. A Python value.
    limits: size of the prefix, and where sequences end; the offset is not used.

  Raises:
    ConfigError: for models that do not fit each other (`check_models`), or ahead below 1.
  """
  check_models(target.model, draft.model, transforms)
  if ahead < 1:
    raise ConfigError(f'speculative decoding needs sampling.draft_ahead of at least 1, got {ahead}')
  limits = limits or Limits()
  batch, length, _ = prompt.emissions.shape
  # The last round may run past the end, by the tokens it drafts and the one after them.
  room = length + ahead + 1
  given = jnp.pad(prompt.emissions[..., 0], ((0, 0), (0, ahead + 1)))
  end = length if limits.end is None else limits.end
  common, known = common_prefix(prompt, limits)
  limits = dataclasses.replace(limits, end=end)
  fixed = Speculation(target, draft, keys, given, prompt.lengths, transforms, greedy, ahead, limits)
  progress = Progress(
    known,
    jnp.int32(0),
    _prefilled(target, common, known, room, limits.chunk),
    _prefilled(draft, common, known, room, limits.chunk),
    jnp.where(jnp.arange(room) < known, given, 0),
    jnp.zeros((batch, room)),
  )
  progress = jax.lax.while_loop(
    functools.partial(_is_running, fixed), functools.partial(_round, fixed), progress
  )
  made = Generated(
    progress.tokens[:, :length, None], progress.log_prob[:, :length], jnp.full(batch, end)
  )
  if limits.stop is not None:
    made = cut_at_stop(made, prompt.lengths, limits.stop, end)
  return Speculated(made, progress.rounds)


def propose(fixed: Speculation, i: Int[Array, ''], state: ModelState) -> Proposal:
  """Drafts the tokens i, i + 1, .. of each sample.

  The draft runs once more than it proposes: if all tokens are accepted, its cache must hold the
  last one too.
  """
  last, (tokens, q) = jax.lax.scan(
    functools.partial(_draft_one, fixed), state, i + jnp.arange(fixed.ahead + 1)
  )
  # From [ahead + 1, batch, ...], without the extra fixed.
  tokens, q = (x[: fixed.ahead].swapaxes(0, 1) for x in (tokens, q))
  return Proposal(tokens, q, last.cache)


def _draft_one(fixed: Speculation, state: ModelState, i: Int[Array, '']):
  outputs, cache = fixed.draft.extend(state.inputs, state.cache)
  q = _distribution(fixed, fixed.draft.model.head, outputs[:, 0])
  # A token of the prompt replaces the draw: `verify` accepts it whatever q says.
  token = _or_given(fixed, i, _pick(fixed, q, i, DRAFT))
  return ModelState(fixed.draft.embed(token[:, None, None]), cache), (token, q)


def verify(fixed: Speculation, progress: Progress, proposal: Proposal) -> Verdict:
  """One pass of the target model over the proposal, and the number of tokens it accepts."""
  i, tokens, ahead = progress.i, proposal.tokens, fixed.ahead
  # The input of the last step, then the drafted tokens: ahead + 1 outputs, one after each.
  drafted = fixed.target.embed(tokens[..., None])
  inputs = jnp.concatenate([progress.target.inputs, drafted], 1)
  outputs, cache = fixed.target.extend(inputs, progress.target.cache)
  p = _distribution(fixed, fixed.target.model.head, outputs)
  # A token is judged by the output before it, so p[:, j] is the distribution of token i + j.
  at = i + jnp.arange(ahead)
  chance = jax.vmap(functools.partial(_uniform, fixed), out_axes=1)(at)
  # Given tokens were not drawn, and tokens after a stop are cut off later: accept both.
  stopped = _ends(fixed, progress.tokens) <= i
  free = (at < fixed.lengths[:, None]) | stopped[:, None]
  # u < min(1, p / q), without the division: q may be 0 for a given token.
  accepted = (chance * _of(tokens, proposal.q) < _of(tokens, p[:, :ahead])) | free
  # The number of leading ones: a token counts only if all before it are accepted.
  return Verdict(outputs, p, jnp.cumprod(accepted, axis=1).sum(1), cache)


def commit(
  fixed: Speculation, progress: Progress, proposal: Proposal, verdict: Verdict
) -> Progress:
  """Writes the accepted tokens and one more, and rewinds both caches to just before that one."""
  i, ahead, lengths = progress.i, fixed.ahead, fixed.lengths
  kept = verdict.accepted.min()  # the batch advances together
  # q is 0 after the draft: if all tokens are accepted, the one after them is drawn from p itself.
  q = jnp.pad(proposal.q, ((0, 0), (0, 1), (0, 0)))
  residual = jnp.maximum(verdict.p - q, 0)[:, kept]
  replaced = _or_given(fixed, i + kept, _pick(fixed, residual, i + kept, REPLACE))
  tokens = jnp.pad(proposal.tokens, ((0, 0), (0, 1)))
  # A sample that accepted more than `kept` keeps its own token there.
  last = jnp.where(verdict.accepted > kept, tokens[:, kept], replaced)
  tokens = tokens.at[:, kept].set(last)
  # Log-probabilities under the model itself: `outputs` are from before the transforms.
  log_prob = fixed.target.model.head.log_prob(verdict.outputs, tokens[..., None])
  log_prob = jnp.where(i + jnp.arange(ahead + 1) < lengths[:, None], 0.0, log_prob)
  # Both caches hold ahead + 1 new inputs, of which kept + 1 stay: up to the token before `last`.
  back = ahead - kept
  last = last[:, None, None]
  target, draft = fixed.target, fixed.draft
  # Tokens beyond `kept` are written too: the next round overwrites them.
  return Progress(
    i + kept + 1,
    progress.rounds + 1,
    ModelState(target.embed(last), target.model.network.rewind(verdict.cache, back)),
    ModelState(draft.embed(last), draft.model.network.rewind(proposal.cache, back)),
    jax.lax.dynamic_update_slice(progress.tokens, tokens, (0, i)),
    jax.lax.dynamic_update_slice(progress.log_prob, log_prob, (0, i)),
  )


def _round(fixed: Speculation, progress: Progress) -> Progress:
  proposal = propose(fixed, progress.i, progress.draft)
  return commit(fixed, progress, proposal, verify(fixed, progress, proposal))


def _is_running(fixed: Speculation, progress: Progress) -> Bool[Array, '']:
  """Whether any sample has neither stopped nor reached the end."""
  running = (_ends(fixed, progress.tokens) > progress.i).any()
  return (progress.i < fixed.limits.end) & running


def _ends(fixed: Speculation, tokens: Int[Array, 'batch room']) -> Int[Array, 'batch']:
  """Where each sample stops. For a sample that has not stopped before position i the result is
  above i, whatever tokens an earlier round has left from i on."""
  stop, end = fixed.limits.stop, fixed.limits.end
  if stop is None:
    return jnp.full(tokens.shape[0], end)
  return jnp.minimum(first_stop(tokens[:, : fixed.length], fixed.lengths, stop), end)


def _prefilled(
  runner: Runner, common: Prompt, known: Int[Array, ''], room: int, chunk: int
) -> ModelState:
  """A model after the beginning that all prompts share; a draft may have no classes."""
  label = common.label if runner.model.num_classes else None
  return ModelState(*runner.prefill_prompt(common._replace(label=label), known, room, chunk))


def _distribution(
  fixed: Speculation, head: Head, outputs: Float[Array, '*batch size']
) -> Float[Array, '*batch vocabulary']:
  """Probabilities after the transforms; one-hot at the mode in greedy decoding."""
  logits = head.logits(outputs)[..., 0, :]
  if fixed.greedy:
    return jax.nn.one_hot(logits.argmax(-1), logits.shape[-1])
  # Transforms come before the comparison: p and q are the distributions that are drawn from.
  return jax.nn.softmax(transform(logits, fixed.transforms))


def _keys(fixed: Speculation, i: Int[Array, ''], use: int) -> Key[Array, 'batch']:
  """A key per sample for one use at position i."""
  # By position, not by round, so random numbers do not depend on where rounds begin. A position
  # that is drafted again uses the same numbers: its first draft has influenced nothing.
  fold = jax.vmap(jax.random.fold_in, (0, None))
  return fold(fold(fixed.keys, i), use)


def _uniform(fixed: Speculation, i: Int[Array, '']) -> Float[Array, 'batch']:
  """A uniform number per sample: whether token i is accepted."""
  return jax.vmap(jax.random.uniform)(_keys(fixed, i, ACCEPT))


def _pick(
  fixed: Speculation, weights: Float[Array, 'batch vocabulary'], i: Int[Array, ''], use: int
) -> Int[Array, 'batch']:
  """A draw with probabilities proportional to the weights."""
  # Weights need no normalisation: `categorical` takes logits up to a constant; log 0 = -inf.
  draws = jax.vmap(jax.random.categorical)(_keys(fixed, i, use), jnp.log(weights))
  return draws.astype(jnp.int32)


def _or_given(
  fixed: Speculation, i: Int[Array, ''], drawn: Int[Array, 'batch']
) -> Int[Array, 'batch']:
  """Token i of each sample: that of its prompt, or the one drawn."""
  return jnp.where(i < fixed.lengths, fixed.given[:, i], drawn)


def _of(
  tokens: Int[Array, 'batch ahead'], probabilities: Float[Array, 'batch ahead vocabulary']
) -> Float[Array, 'batch ahead']:
  """The probability of each token."""
  return jnp.take_along_axis(probabilities, tokens[..., None], -1)[..., 0]
