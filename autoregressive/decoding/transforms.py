"""Logit transforms, in the order in which they are applied before a value is drawn.

  1. repetition    logits of values seen before: divided by the penalty where positive, multiplied
                   where negative (Keskar et al. 2019, section 4.1)
  2. frequency     logits - penalty · (number of times the value was seen before)
  3. temperature   logits / temperature; 0 is the limit, greedy
  4. top-k         keeps the k most probable values
  5. top-p         keeps the most probable values until their mass reaches p, the one that crosses
                   p included (Holtzman et al. 2020)
  6. min-p         keeps values with at least p times the probability of the most probable one
                   (Nguyen et al. 2024)

The temperature comes before every truncation, so each truncation sees the distribution at its
temperature, as the truncation before it left it. Penalties come before the temperature, so that
their strength does not depend on it; they also act in greedy decoding. 'Seen before' counts the
prompt as well as what was drawn. Values that tie with the last one kept are kept.

The values of the transforms are arguments of the compiled program: a new temperature does not
recompile. A cheap transform is in every program, if need be at a value that changes nothing; a
transform that needs a sort or counts is left out when it is off
(`DecodingSettings.program_transforms`).
"""

from collections.abc import Mapping

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from common.attention import MASKED

LogitTransforms = Mapping[str, Array]  # name of a transform that is on: its value
MIN_TEMPERATURE = 1e-6  # a lower temperature is greedy


def repetition_penalty(
  logits: Float[Array, '*batch vocabulary'],
  value: Float[Array, ''],
  counts: Int[Array, '*batch vocabulary'],
) -> Float[Array, '*batch vocabulary']:
  """Makes values seen before less probable, by a factor of their logits."""
  return jnp.where(counts > 0, jnp.where(logits > 0, logits / value, logits * value), logits)


def frequency_penalty(
  logits: Float[Array, '*batch vocabulary'],
  value: Float[Array, ''],
  counts: Int[Array, '*batch vocabulary'],
) -> Float[Array, '*batch vocabulary']:
  """Makes a value less probable each time it was seen."""
  return logits - value * counts


def temperature(
  logits: Float[Array, '*batch vocabulary'], value: Float[Array, ''], counts=None
) -> Float[Array, '*batch vocabulary']:
  """Divides by the temperature; at 0 only the largest logit stays."""
  del counts
  # The limit is a separate case: logits / 0 would be infinite, and their softmax NaN.
  greedy = jnp.where(logits == logits.max(-1, keepdims=True), 0.0, MASKED)
  return jnp.where(value > MIN_TEMPERATURE, logits / jnp.maximum(value, MIN_TEMPERATURE), greedy)


def top_k(
  logits: Float[Array, '*batch vocabulary'], value: Float[Array, ''], counts=None
) -> Float[Array, '*batch vocabulary']:
  """Masks all but the k largest; none if k is 0."""
  del counts
  ranked = jnp.sort(logits, axis=-1, descending=True)
  # k is a traced number, so the k-th largest logit is looked up: `lax.top_k` needs a static k.
  k = jnp.where(value > 0, value, jnp.inf)
  last = jnp.minimum(k, logits.shape[-1]).astype(jnp.int32) - 1
  return jnp.where(logits >= jnp.take(ranked, last[None], axis=-1), logits, MASKED)


def top_p(
  logits: Float[Array, '*batch vocabulary'], value: Float[Array, ''], counts=None
) -> Float[Array, '*batch vocabulary']:
  """Masks all but the most probable values that together reach the mass p; none if p is 1."""
  del counts
  probabilities = jax.nn.softmax(logits)
  ranked = jnp.sort(probabilities, axis=-1, descending=True)
  # A value is kept if the mass of those before it is below p: so the one that crosses p stays.
  kept = (jnp.cumsum(ranked, -1) - ranked < value).sum(-1, keepdims=True)
  threshold = jnp.take_along_axis(ranked, kept - 1, axis=-1)
  # Rounding can bring the whole mass above 1 before the last value: p = 1 must still keep it.
  return jnp.where((probabilities >= threshold) | (value >= 1), logits, MASKED)


def min_p(
  logits: Float[Array, '*batch vocabulary'], value: Float[Array, ''], counts=None
) -> Float[Array, '*batch vocabulary']:
  """Masks values less than p times as probable as the most probable one."""
  del counts
  # In logits the normaliser cancels: log p_i ≥ log p_max + log p.
  lowest = logits.max(-1, keepdims=True) + jnp.log(value)
  return jnp.where(logits >= lowest, logits, MASKED)


PENALTIES = {'repetition_penalty': repetition_penalty, 'frequency_penalty': frequency_penalty}
TRUNCATIONS = {'top_k': top_k, 'top_p': top_p, 'min_p': min_p}
TRANSFORMS = PENALTIES | {'temperature': temperature} | TRUNCATIONS  # in the order of application
OFF = dict(repetition_penalty=1, frequency_penalty=0, temperature=1, top_k=0, top_p=1, min_p=0)
# Transforms that need the same preparation (counts; a sort): one of a group costs as much as all.
SHARED_COST = (PENALTIES.keys(), {'top_k', 'top_p'})


def transform(
  logits: Float[Array, '*batch vocabulary'],
  transforms: LogitTransforms,
  counts: Int[Array, '*batch vocabulary'] | None = None,
) -> Float[Array, '*batch vocabulary']:
  """Applies the transforms that are on, in the order of TRANSFORMS.

  Args:
    logits: over the vocabulary.
    transforms: the value of each transform that is on.
    counts: number of times each value was seen before; penalties need it.
  """
  for name, apply in TRANSFORMS.items():
    if name in transforms:
      logits = apply(logits, transforms[name], counts)
  return logits


def needs_counts(transforms: LogitTransforms) -> bool:
  """Whether one of the transforms depends on the values seen before."""
  return bool(transforms.keys() & PENALTIES.keys())
