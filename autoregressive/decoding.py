"""Decoding: from a model of p(e_i | e_<i) to samples.

`generate` fills an explicit cache with what is given (prefill), then lets one `lax.scan` draw an
emission per step. What is drawn from is the head's logits after these transforms, in this order,
each on what the one before left:

  1. guidance      logits of no class + guidance · (logits of the class - logits of no class)
  2. temperature   logits / temperature; 0 is the limit, greedy
  3. top-k         the k most probable values stay
  4. top-p         the most probable values stay until their mass reaches p; the one that crosses
                   p stays too (Holtzman et al. 2020)

So top-p sees the distribution at its temperature. Values that tie with the last one kept are kept.
The numbers are arguments of the compiled program: a new temperature does not recompile; what is
switched off costs nothing. Each sample has a key of its own, so what is drawn does not depend on
what it shares a batch with.
"""

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Key

from autoregressive.model import Model
from autoregressive.networks.dot_product import MASKED
from common.config import ConfigError


@dataclasses.dataclass(frozen=True)
class Options:
  """Sampler settings, as in a config's `sampling` section.

  Attributes:
    temperature: divides the logits; 0: greedy.
    top_k: how many values to keep; 0: all.
    top_p: mass to keep, in (0, 1]; 1: all.
    greedy: always the most probable value.
    guidance: weight of the class against no class (Ho & Salimans 2022); 1: the class as trained.
      Needs a model trained with model.class_dropout.

  Raises:
    ConfigError: for a value outside its range.
  """

  temperature: float = 1.0
  top_k: int = 0
  top_p: float = 1.0
  greedy: bool = False
  guidance: float = 1.0

  def __post_init__(self):
    if not self.temperature >= 0:
      raise ConfigError(f'sampling.temperature={self.temperature} must be 0 or more')
    if self.top_k < 0:
      raise ConfigError(f'sampling.top_k={self.top_k} must be 0 (off) or more')
    if not 0 < self.top_p <= 1:
      raise ConfigError(f'sampling.top_p={self.top_p} must be in (0, 1]; 1 is off')

  def transforms(self) -> dict[str, Float[Array, '']]:
    """The logits transforms that are on, with their numbers, in the order of application."""
    off = {'temperature': 1.0, 'top_k': 0, 'top_p': 1.0}
    if self.greedy:
      return {}
    return {k: jnp.float32(getattr(self, k)) for k, v in off.items() if getattr(self, k) != v}


def temperature(
  logits: Float[Array, '*batch vocabulary'], value: Float[Array, '']
) -> Float[Array, '*batch vocabulary']:
  """Divides by the temperature; at 0 only the greatest logit stays."""
  greatest = logits.max(-1, keepdims=True)
  cold = jnp.where(logits == greatest, 0.0, MASKED)
  return jnp.where(value > 0, (logits - greatest) / jnp.where(value > 0, value, 1.0), cold)


def top_k(
  logits: Float[Array, '*batch vocabulary'], value: Float[Array, '']
) -> Float[Array, '*batch vocabulary']:
  """Masks all but the k greatest."""
  ranked = jnp.sort(logits, axis=-1, descending=True)
  last = jnp.minimum(value.astype(jnp.int32), logits.shape[-1]) - 1
  return jnp.where(logits >= jnp.take(ranked, last[None], axis=-1), logits, MASKED)


def top_p(
  logits: Float[Array, '*batch vocabulary'], value: Float[Array, '']
) -> Float[Array, '*batch vocabulary']:
  """Masks all but the most probable values that together reach the mass p."""
  ranked = jnp.sort(jax.nn.softmax(logits), axis=-1, descending=True)
  kept = (jnp.cumsum(ranked, -1) - ranked < value).sum(-1, keepdims=True)  # mass before each < p
  threshold = jnp.take_along_axis(ranked, kept - 1, axis=-1)
  return jnp.where(jax.nn.softmax(logits) >= threshold, logits, MASKED)


TRANSFORMS = {'temperature': temperature, 'top_k': top_k, 'top_p': top_p}  # in this order


def transform(
  logits: Float[Array, '*batch vocabulary'], numbers: dict[str, Float[Array, '']]
) -> Float[Array, '*batch vocabulary']:
  """Applies the transforms that `numbers` names, in the order of TRANSFORMS."""
  for name, apply in TRANSFORMS.items():
    if name in numbers:
      logits = apply(logits, numbers[name])
  return logits


class Generated(NamedTuple):
  """What `generate` drew.

  Attributes:
    emissions: given and drawn.
    log_prob: of each emission drawn, under the model itself (no transforms, no guidance), in
      nats; 0 where it was given.
  """

  emissions: Int[Array, 'batch length values']
  log_prob: Float[Array, 'batch length']


def prefill(model: Model, params, inputs: Float[Array, 'batch length width'], cache):
  """Fills the cache with inputs whose outputs nobody needs. Returns the cache."""
  if not inputs.shape[1]:
    return cache
  return model.apply({'params': params}, inputs, cache, method=model.extend)[1]


def generate(
  model: Model,
  params: Any,
  keys: Key[Array, 'batch'],
  given: Int[Array, 'batch length values'],
  lengths: Int[Array, 'batch'],
  label: Int[Array, 'batch'] | None,
  numbers: dict[str, Float[Array, '']],
  guidance: Float[Array, ''] | None = None,
  greedy: bool = False,
  prefix: int = 0,
) -> Generated:
  """Draws the rest of sequences whose beginning is given. Pure, to be jitted by the caller.

  Args:
    model: a model whose layers are not stacked (see `transformer.unroll`).
    params: its parameters.
    keys: one per sample.
    given: sequences of the full length; what lies beyond `lengths` is ignored.
    lengths: how many emissions of each are given. Those beyond the prefix are fed step by step.
    label: class of each, or None.
    numbers: transforms that are on (`Options.transforms`).
    guidance: weight, or None for one pass without.
    greedy: the mode rather than a draw.
    prefix: emissions to take in at once: at most the least of `lengths`. A Python value.
  """
  batch, length, _ = given.shape

  def run(method, *args):
    return model.apply({'params': params}, *args, method=method)

  def twice(x):
    """With guidance the model runs on both branches side by side."""
    return x if guidance is None else jnp.concatenate([x, x])

  if guidance is not None:
    label = jnp.concatenate([label, jnp.full_like(label, model.num_classes)])
  inputs = run(model.embed, twice(given[:, :prefix]))
  if model.start != 'none':
    inputs = jnp.concatenate([run(model.embed_start, inputs.shape[0], label), inputs], 1)
  cache = model.network.init_cache(inputs.shape[0], length)
  cache = prefill(model, params, inputs[:, :-1], cache)

  def step(carry, now):
    inputs, cache = carry
    i, forced = now
    hidden, cache = run(model.extend, inputs, cache)
    outputs = run(model.project, hidden)[:, 0]
    drawn = draw(model.head, outputs[:batch], _guided(outputs, guidance), keys, i, numbers, greedy)
    emission = jnp.where((i < lengths)[:, None], forced, drawn.emissions)
    log_prob = jnp.where(i < lengths, 0.0, drawn.log_prob)
    return (run(model.embed, twice(emission)[:, None]), cache), Generated(emission, log_prob)

  now = (jnp.arange(prefix, length), given[:, prefix:].swapaxes(0, 1))
  _, made = jax.lax.scan(step, (inputs[:, -1:], cache), now)
  return Generated(
    jnp.concatenate([given[:, :prefix], made.emissions.swapaxes(0, 1)], 1),
    jnp.pad(made.log_prob.swapaxes(0, 1), ((0, 0), (prefix, 0))),
  )


def draw(head, outputs, guided, keys, i, numbers, greedy) -> Generated:
  """One emission of each sample, from the guided outputs; its log-probability under `outputs`."""
  if not head.discrete:
    sample = head.mode(guided) if greedy else jax.vmap(head.sample)(guided, _at(keys, i))
  else:
    logits = transform(head.logits(guided), numbers)
    if not greedy:
      logits += jax.vmap(lambda k: jax.random.gumbel(k, logits.shape[1:]))(_at(keys, i))
    sample = logits.argmax(-1).astype(jnp.int32)
  return Generated(sample, head.log_prob(outputs, sample))


def _at(keys: Key[Array, 'batch'], i) -> Key[Array, 'batch']:
  return jax.vmap(jax.random.fold_in, (0, None))(keys, i)


def _guided(outputs, guidance):
  """Classifier-free guidance of logits; an emission's constants cancel in the softmax."""
  if guidance is None:
    return outputs
  conditional, unconditional = jnp.split(outputs, 2)
  return unconditional + guidance * (conditional - unconditional)
