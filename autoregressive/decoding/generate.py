"""Decoding: from a model of p(e_i | e_<i) to samples.

`generate` works for any network, ordering and head. It fills a cache with the prompt (prefill),
then draws one emission per step in one `while_loop`, which ends early if all samples have stopped.
The emission is drawn from the head's logits, after guidance and then the transforms of
autoregressive/decoding/transforms.py. Each sample has its own key, folded with the position, so a
sample does not depend on the batch that it is drawn in.
"""

import dataclasses
import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Key, Num

from autoregressive.decoding.runner import Runner, scale_of
from autoregressive.decoding.sequences import Generated, Limits, Prompt, common_prefix, stops_at
from autoregressive.decoding.transforms import LogitTransforms, needs_counts, transform
from autoregressive.heads.base import Head


class Carry(NamedTuple):
  """The state that one step passes to the next.

  Attributes:
    i: position of the next emission.
    inputs: the next input of the network.
    cache: cache of the network.
    made: the sequences so far.
    counts: number of times each value was seen, by place in the emission, or None.
  """

  i: Int[Array, '']
  inputs: Float[Array, 'branches 1 width']
  cache: Any
  made: Generated
  counts: Int[Array, 'batch values vocabulary'] | None


def generate(
  runner: Runner,
  keys: Key[Array, 'batch'],
  prompt: Prompt,
  transforms: LogitTransforms,
  guidance: Float[Array, ''] | None = None,
  greedy: bool = False,
  limits: Limits | None = None,
) -> Generated:
  """Draws the rest of sequences whose beginning is given. Pure: the caller compiles it.

  Args:
    runner: the model with its parameters, unrolled.
    keys: one per sample.
    prompt: the given beginning of each sample. Emissions beyond the prefix are fed step by step.
    transforms: the transforms that are on (`DecodingSettings.program_transforms`).
    guidance: weight of classifier-free guidance; None: no guidance, and half the batch. Models of
      numbers take no guidance.
    greedy: take the mode instead of a draw. A Python value.
    limits: size of the prefix, and where sequences end.
  """
  return Generation(runner, keys, prompt, transforms, guidance, greedy, limits or Limits()).run()


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Generation:
  """The arguments of `generate`, which stay the same at every step."""

  runner: Runner
  keys: Key[Array, 'batch']
  prompt: Prompt
  transforms: LogitTransforms
  guidance: Float[Array, ''] | None
  greedy: bool = dataclasses.field(metadata=dict(static=True))
  limits: Limits

  @property
  def end(self) -> Int[Array, ''] | int:
    """Number of emissions to decode, the prompt included."""
    return self.prompt.emissions.shape[1] if self.limits.end is None else self.limits.end

  def run(self) -> Generated:
    """Prefill, then one step per emission."""
    return self.advance(self.start(), self.end).made

  def advance(self, carry: Carry, until: Int[Array, ''] | int) -> Carry:
    """Draws the emissions before position `until`, unless all samples have ended before."""
    running = functools.partial(self.is_running, until)
    return jax.lax.while_loop(running, self.step, carry)

  def start(self) -> Carry:
    """The carry after the prefill."""
    emissions, model = self.prompt.emissions, self.runner.model
    batch, length, _ = emissions.shape
    # The prefill takes in at most the shortest prompt; `step` feeds the rest.
    common, known = common_prefix(self.prompt, self.limits)
    if self.guidance is not None:  # the last row of the start table is 'no class'
      free = jnp.full_like(common.label, model.num_classes)
      label = jnp.concatenate([common.label, free])
      common = common._replace(emissions=self.branches(common.emissions), label=label)
    inputs, cache = self.runner.prefill_prompt(common, known, length, self.limits.chunk)
    made = Generated(
      # Only the common part is written yet: `step` writes the rest of each prompt.
      jnp.where(jnp.arange(length)[None, :, None] < known, emissions, 0),
      jnp.zeros((batch, length)),
      jnp.full((batch,), self.end),
    )
    # Penalties also count the prompt; the part beyond `known` is counted as it is fed.
    counts = None
    if needs_counts(self.transforms):
      counts = count_values(emissions[:, : self.limits.prefix], known, model.head.vocabulary)
    return Carry(known, inputs, cache, made, counts)

  def branches(self, x: Array) -> Array:
    """The batch as the network sees it: with guidance twice, conditional and unconditional."""
    return x if self.guidance is None else jnp.concatenate([x, x])

  def is_running(self, until: Int[Array, ''] | int, carry: Carry) -> Array:
    """Whether any sample has neither stopped nor reached `until`."""
    return (carry.i < until) & (carry.made.lengths > carry.i).any()

  def step(self, carry: Carry) -> Carry:
    """Draws emission i of each sample, or takes it from the prompt."""
    runner, prompt, i = self.runner, self.prompt, carry.i
    head, covariates = runner.model.head, prompt.covariates
    batch, scale = prompt.emissions.shape[0], scale_of(covariates)
    # The input of the last step gives the outputs for this one.
    outputs, cache = runner.extend(carry.inputs, carry.cache)
    outputs = outputs[:, 0]
    logits = guided(outputs, self.guidance)
    # Keys depend on the position in the whole sequence, not in the window.
    keys = jax.vmap(jax.random.fold_in, (0, None))(self.keys, self.limits.offset + i)
    drawn = draw(head, logits, keys, self.transforms, self.greedy, carry.counts, scale)
    # Order matters: a sample within its prompt follows the prompt, then a stopped one yields 0.
    fed, done = i < prompt.lengths, carry.made.lengths <= i
    drawn = jnp.where(done[:, None], 0, drawn)
    emission = jnp.where(fed[:, None], prompt.emissions[:, i], drawn)
    # Log-probabilities are of the conditional branch, before guidance and transforms.
    log_prob = head.log_prob(outputs[:batch], emission, scale)
    made = Generated(
      carry.made.emissions.at[:, i].set(emission),
      carry.made.log_prob.at[:, i].set(jnp.where(fed | done, 0.0, log_prob)),
      carry.made.lengths,
    )
    counts = carry.counts
    if counts is not None:
      # By place in the emission: the same level in another channel is another value.
      counts += jax.nn.one_hot(emission, counts.shape[-1], dtype=counts.dtype)
    if self.limits.stop is not None:
      # The first stop fixes the length.
      ended = stops_at(made.emissions[..., 0], i, prompt.lengths, self.limits.stop) & ~done
      made = made._replace(lengths=jnp.where(ended, i + 1, made.lengths))
    # Both branches of guidance continue from the same emission.
    inputs = runner.embed_at(self.branches(emission)[:, None], i, covariates)
    return Carry(i + 1, inputs, cache, made, counts)


def count_values(
  emissions: Int[Array, 'batch length values'], known: Int[Array, ''], vocabulary: int
) -> Int[Array, 'batch values vocabulary']:
  """Number of times each value occurs in the first `known` emissions, by place in the emission."""
  batch, length, values = emissions.shape
  rows, places = jnp.arange(batch)[:, None, None], jnp.arange(values)
  # Emissions beyond `known` are added with weight 0, so shapes do not depend on `known`.
  seen = (jnp.arange(length) < known).astype(jnp.int32)[:, None]
  return jnp.zeros((batch, values, vocabulary), jnp.int32).at[rows, places, emissions].add(seen)


def draw(
  head: Head,
  outputs: Float[Array, 'batch size'],
  keys: Key[Array, 'batch'],
  transforms: LogitTransforms,
  greedy: bool,
  counts: Int[Array, 'batch values vocabulary'] | None = None,
  scale: Float[Array, 'batch'] | float = 1.0,
) -> Num[Array, 'batch values']:
  """One emission of each sample, drawn with the key of that sample."""
  if not head.discrete:
    if greedy:
      return head.mode(outputs, scale)
    return jax.vmap(head.sample)(outputs, keys, jnp.broadcast_to(scale, keys.shape))
  logits = transform(head.logits(outputs), transforms, counts)
  if not greedy:  # Gumbel-max: argmax(logits + noise) is a draw from softmax(logits)
    logits += jax.vmap(lambda key: jax.random.gumbel(key, logits.shape[1:]))(keys)
  return logits.argmax(-1).astype(jnp.int32)


def guided(
  outputs: Float[Array, 'branches size'], guidance: Float[Array, ''] | None
) -> Float[Array, 'batch size']:
  """Classifier-free guidance of logits (Ho & Salimans 2022, equation 6).

  The weight is 1 + w in the notation of the paper: at 1 only the conditional model counts. Logits
  are log-probabilities up to a constant, which cancels in the softmax.
  """
  if guidance is None:
    return outputs
  conditional, unconditional = jnp.split(outputs, 2)
  return unconditional + guidance * (conditional - unconditional)
