"""Speculative decoding: a small model drafts, the large one checks several tokens in one pass.

Leviathan et al. 2023, algorithm 1; Chen et al. 2023. A drafted token x is accepted with
probability min(1, p(x)/q(x)); the first that is not is replaced by a draw from max(p - q, 0),
normalised. What comes out is distributed as the large model p alone would have it, transforms
included, whatever the draft q.

The samples of a batch advance together, by the least number accepted among them plus one. That
number is a stopping time: it depends on no token after the one at which it stops. So each sample's
distribution stays exact; a large batch only accepts fewer. What is given is accepted as it is, and
a sample that has stopped accepts everything, so that it holds nobody up.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Int, Key

from autoregressive.decoding.generate import Generated, Runner, cut, first_stop
from autoregressive.decoding.transforms import Numbers, counted, transform
from autoregressive.model import Model
from common.config import ConfigError


class Speculated(NamedTuple):
  """What was drawn, and how many passes of the large model that took."""

  made: Generated
  rounds: Int[Array, '']


def check(model: Model, draft: Model, numbers: Numbers) -> None:
  """Raises ConfigError where these cannot work together."""
  for one in (model, draft):
    if one.values != 1 or not one.head.discrete:
      raise ConfigError('speculative decoding needs emissions of one value each, of a vocabulary')
    if not one.network.can_rewind:
      raise ConfigError('speculative decoding needs networks whose cache can be wound back')
  if model.head.vocabulary != draft.head.vocabulary:
    raise ConfigError(
      f'the draft has a vocabulary of {draft.head.vocabulary}, the model one of '
      f'{model.head.vocabulary}; speculative decoding needs the same'
    )
  if draft.num_classes not in (0, model.num_classes):
    raise ConfigError(f'the draft has {draft.num_classes} classes, the model {model.num_classes}')
  if counted(numbers):
    raise ConfigError('speculative decoding goes with no repetition or frequency penalty')


def speculate(
  model: Model,
  params: Any,
  draft: Model,
  draft_params: Any,
  keys: Key[Array, 'batch'],
  given: Int[Array, 'batch length 1'],
  lengths: Int[Array, 'batch'],
  label: Int[Array, 'batch'] | None,
  numbers: Numbers,
  greedy: bool = False,
  prefix: int = 0,
  stop: Int[Array, 'stops longest'] | None = None,
  chunk: int = 0,
  ahead: int = 4,
  end: Int[Array, ''] | int | None = None,
) -> Speculated:
  """Draws the rest of sequences whose beginning is given. Pure, to be jitted by the caller.

  Args:
    model, params: the model to draw from; its layers not stacked.
    draft, draft_params: a cheaper one with the same vocabulary.
    keys: one per sample.
    given, lengths, label, greedy, prefix, stop, chunk, end: as `decoding.generate` takes them.
    numbers: transforms that are on; both models' logits go through them.
    ahead: tokens drafted per round. A Python value.

  Raises:
    ConfigError: for models that do not go together (`check`), or ahead below 1.
  """
  check(model, draft, numbers)
  if ahead < 1:
    raise ConfigError(f'speculative decoding drafts 1 token or more per round, not {ahead}')
  batch, length, _ = given.shape
  end = length if end is None else end
  known = jnp.minimum(lengths.min(), prefix)
  large, small = Runner(model, params), Runner(draft, draft_params)

  def distribution(head, outputs):
    logits = head.logits(outputs)[..., 0, :]
    if greedy:
      return jax.nn.one_hot(logits.argmax(-1), logits.shape[-1])
    return jax.nn.softmax(transform(logits, numbers))

  def uses(i, use):
    """A key per sample for one use at position i: 0 drafts, 1 accepts, 2 replaces."""
    return jax.vmap(lambda key: jax.random.fold_in(jax.random.fold_in(key, i), use))(keys)

  def pick(probabilities, i, use):
    draws = jax.vmap(jax.random.categorical)(uses(i, use), jnp.log(probabilities))
    return draws.astype(jnp.int32)

  room = length + ahead + 1  # the last round may run over the end
  padded = jnp.pad(given[..., 0], ((0, 0), (0, ahead + 1)))

  def fed(i):
    """(whether token i of each sample is given, that token)."""
    return i < lengths, padded[:, i]

  def propose(i, inputs, cache):
    """(tokens [batch, ahead], q [batch, ahead, vocabulary], cache). Runs once more than it
    proposes, so that the cache holds the last token too."""

    def one(carry, j):
      inputs, cache = carry
      outputs, cache = small.extend(inputs, cache)
      q = distribution(draft.head, outputs[:, 0])
      token = jnp.where(*fed(i + j), pick(q, i + j, 0))
      return (small.embed(token[:, None, None]), cache), (token, q)

    (_, cache), (tokens, q) = jax.lax.scan(one, (inputs, cache), jnp.arange(ahead + 1))
    return tokens[:ahead].swapaxes(0, 1), q[:ahead].swapaxes(0, 1), cache

  def round_(carry):
    i, rounds, (inputs, cache), (small_inputs, small_cache), emissions, log_prob = carry
    tokens, q, small_cache = propose(i, small_inputs, small_cache)
    drafted = large.embed(tokens[..., None])
    outputs, cache = large.extend(jnp.concatenate([inputs, drafted], 1), cache)
    p = distribution(model.head, outputs)  # [batch, ahead + 1, vocabulary]
    at = i + jnp.arange(ahead + 1)
    chance = jax.vmap(lambda i: jax.vmap(jax.random.uniform)(uses(i, 1)), out_axes=1)(at[:-1])
    of = lambda table: jnp.take_along_axis(table[:, :ahead], tokens[..., None], -1)[..., 0]
    free = (at < lengths[:, None]) | (ends(emissions) <= i)[:, None]  # given, or stopped
    accepted = (chance * of(q) < of(p)) | free[:, :ahead]
    each = jnp.cumprod(accepted, axis=1).sum(1)
    kept = each.min()  # the batch advances together
    left = jnp.maximum(p - jnp.pad(q, ((0, 0), (0, 1), (0, 0))), 0)[:, kept]  # past the draft: p
    replaced = jnp.where(*fed(i + kept), pick(left, i + kept, 2))
    new = jnp.pad(tokens, ((0, 0), (0, 1)))
    new = new.at[:, kept].set(jnp.where(each > kept, new[:, kept], replaced))
    scores = jnp.where(at < lengths[:, None], 0.0, model.head.log_prob(outputs, new[..., None]))
    write = lambda x, y: jax.lax.dynamic_update_slice(x, y, (0, i))
    last = new[:, kept][:, None, None]
    back = ahead - kept
    return (
      i + kept + 1,
      rounds + 1,
      (large.embed(last), model.network.rewind(cache, back)),
      (small.embed(last), draft.network.rewind(small_cache, back)),
      write(emissions, new),
      write(log_prob, scores),
    )

  def ends(emissions):
    """Where each sample stops; beyond i where it has not, whatever an earlier round left there."""
    if stop is None:
      return jnp.full(batch, end)
    return jnp.minimum(first_stop(emissions[:, :length], lengths, stop), end)

  def goes_on(carry):
    i, *_, emissions, _ = carry
    return (i < end) & (ends(emissions) > i).any()

  start = given[:, :prefix]
  carry = (
    known,
    jnp.int32(0),
    large.begin(start, known, label if model.num_classes else None, room, chunk),
    small.begin(start, known, label if draft.num_classes else None, room, chunk),
    jnp.where(jnp.arange(room) < known, padded, 0),
    jnp.zeros((batch, room)),
  )
  _, rounds, _, _, emissions, log_prob = jax.lax.while_loop(goes_on, round_, carry)
  made = Generated(emissions[:, :length, None], log_prob[:, :length], jnp.full(batch, end))
  return Speculated(made if stop is None else cut(made, lengths, stop, end), rounds)
