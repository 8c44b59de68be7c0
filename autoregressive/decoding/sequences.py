"""The data that decoding works on: prompts, limits, stop sequences and generated sequences.

Every way of decoding takes a `Prompt` and `Limits`; `Decoder` returns `Generated` sequences.
"""

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Num

from autoregressive.orderings.base import Covariates


class Prompt(NamedTuple):
  """The given beginning of each sample.

  Attributes:
    emissions: sequences of the full length; values beyond `lengths` are ignored.
    lengths: number of given emissions of each sample.
    label: class of each sample, or None.
    covariates: covariates and scales of sequences of numbers, or None.
  """

  emissions: Num[Array, 'batch length values']
  lengths: Int[Array, 'batch']
  label: Int[Array, 'batch'] | None = None
  covariates: Covariates | None = None


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Limits:
  """How much of the prompt is taken in at once, and where decoding ends.

  `prefix` and `chunk` determine array shapes: a jitted function is compiled for each of their
  values. The others are arrays.

  Attributes:
    prefix: the largest number of emissions of a prompt that the prefill takes in (see
      `runner.bucketed_prefix`). If it is longer than the shortest prompt, a network that can rewind
      takes in the rest as padding.
    chunk: see `runner.part_sizes`.
    stop: sequences that end a sample when drawn (`DecodingSettings.stop_rows`), or None.
    offset: position of the first emission, if the prompt is a window of a longer sequence; keys
      depend on the position.
    end: number of emissions to decode, the prompt included; None: the length of the arrays.
  """

  prefix: int = dataclasses.field(default=0, metadata=dict(static=True))
  chunk: int = dataclasses.field(default=0, metadata=dict(static=True))
  stop: Int[Array, 'stops longest'] | None = None
  offset: Int[Array, ''] | int = 0
  end: Int[Array, ''] | int | None = None


class Generated(NamedTuple):
  """Decoded sequences.

  Attributes:
    emissions: the prompt and the drawn emissions; 0 after a stop.
    log_prob: log-probability of each drawn emission under the model itself (no transforms, no
      guidance), in nats; 0 for the prompt, and after a stop.
    lengths: number of emissions of each sample, the stop sequence included.
  """

  emissions: Num[Array, 'batch length values']
  log_prob: Float[Array, 'batch length']
  lengths: Int[Array, 'batch']


def common_prefix(prompt: Prompt, limits: Limits) -> tuple[Prompt, Int[Array, '']]:
  """The prompt cut to the static prefix, and the number of emissions in it that all prompts have.

  Prompts of different lengths need no masks: their common part is taken in at once, and the rest of
  a longer prompt is fed step by step instead of drawn values.
  """
  # The number is an array, so prompts of other lengths do not compile another program.
  known = jnp.minimum(prompt.lengths.min(), limits.prefix)
  return prompt._replace(emissions=prompt.emissions[:, : limits.prefix]), known


def stops_at(
  tokens: Int[Array, '*batch length'],
  i: Int[Array, ''],
  lengths: Int[Array, '*batch'],
  stop: Int[Array, 'stops longest'],
) -> Bool[Array, '*batch']:
  """Whether a stop sequence ends with token i. Tokens of the prompt never belong to a stop.

  Args:
    tokens: sequences.
    i: a position in them.
    lengths: number of tokens of each prompt.
    stop: see `DecodingSettings.stop_rows`.
  """
  at = i - jnp.arange(stop.shape[1])[::-1]
  # -2 equals no token and no padding (-1). So nothing in the prompt matches, nor before the
  # sequence, where a negative index wraps around.
  recent = jnp.where(at >= lengths[..., None], tokens[..., at], -2)
  return ((recent[..., None, :] == stop) | (stop < 0)).all(-1).any(-1)


def first_stop(
  tokens: Int[Array, 'batch length'],
  lengths: Int[Array, 'batch'],
  stop: Int[Array, 'stops longest'],
) -> Int[Array, 'batch']:
  """Number of tokens up to the first stop, the stop included; all tokens if there is none."""
  length = tokens.shape[1]
  # [batch, length]: whether a stop ends at each token.
  ends = jax.vmap(lambda i: stops_at(tokens, i, lengths, stop), out_axes=1)(jnp.arange(length))
  return jnp.where(ends.any(1), ends.argmax(1) + 1, length)


def cut_at_stop(
  made: Generated,
  lengths: Int[Array, 'batch'],
  stop: Int[Array, 'stops longest'],
  end: Int[Array, ''] | int,
) -> Generated:
  """Cuts each sequence at its first stop, or at `end`.

  Args:
    made: whole sequences; their values beyond `end` are ignored.
    lengths: number of tokens of each prompt.
    stop: see `DecodingSettings.stop_rows`.
    end: number of decoded tokens, the prompt included.
  """
  ends = jnp.minimum(first_stop(made.emissions[..., 0], lengths, stop), end)
  kept = jnp.arange(made.log_prob.shape[1]) < ends[:, None]
  emissions = jnp.where(kept[..., None], made.emissions, 0)
  return Generated(emissions, jnp.where(kept, made.log_prob, 0.0), ends)
