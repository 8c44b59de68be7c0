"""What is drawn from: sampler options, and logits transforms in the order they are applied.

  1. repetition    logits of values seen before: divided by the penalty where positive, multiplied
                   where negative (Keskar et al. 2019, section 4.1)
  2. frequency     logits - penalty · (how often the value was seen before)
  3. temperature   logits / temperature; 0 is the limit, greedy
  4. top-k         the k most probable values stay
  5. top-p         the most probable values stay until their mass reaches p; the one that crosses p
                   stays too (Holtzman et al. 2020)
  6. min-p         values with at least p times the probability of the greatest stay (Nguyen et al.
                   2024)

So temperature comes before every truncation: each sees the distribution at its temperature, and
what the one before left of it. Penalties come before the temperature, so that they hold at any,
and in greedy decoding too. 'Seen before' counts what was given as well as what was drawn. Values
that tie with the last one kept are kept.

The numbers are arguments of the compiled program: a new temperature does not recompile. What is
cheap is always on, at a number that changes nothing; what needs a sort or counts costs nothing
where it is off (`Options.numbers`).
"""

import dataclasses
from collections.abc import Mapping

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from common.attention import MASKED
from common.config import ConfigError

Numbers = Mapping[str, Array]  # a number for each transform that is on
COLD = 1e-6  # a temperature below this is greedy


def repetition_penalty(
  logits: Float[Array, '*batch vocabulary'],
  value: Float[Array, ''],
  counts: Int[Array, '*batch vocabulary'],
) -> Float[Array, '*batch vocabulary']:
  """Makes what was seen less probable by a factor of its logit."""
  return jnp.where(counts > 0, jnp.where(logits > 0, logits / value, logits * value), logits)


def frequency_penalty(
  logits: Float[Array, '*batch vocabulary'],
  value: Float[Array, ''],
  counts: Int[Array, '*batch vocabulary'],
) -> Float[Array, '*batch vocabulary']:
  """Makes what was seen less probable, once for every time."""
  return logits - value * counts


def temperature(
  logits: Float[Array, '*batch vocabulary'], value: Float[Array, ''], counts=None
) -> Float[Array, '*batch vocabulary']:
  """Divides by the temperature; at 0 only the greatest logit stays."""
  del counts
  cold = jnp.where(logits == logits.max(-1, keepdims=True), 0.0, MASKED)
  return jnp.where(value > COLD, logits / jnp.maximum(value, COLD), cold)


def top_k(
  logits: Float[Array, '*batch vocabulary'], value: Float[Array, ''], counts=None
) -> Float[Array, '*batch vocabulary']:
  """Masks all but the k greatest; none where k is 0."""
  del counts
  ranked = jnp.sort(logits, axis=-1, descending=True)
  k = jnp.where(value > 0, value, jnp.inf)
  last = jnp.minimum(k, logits.shape[-1]).astype(jnp.int32) - 1
  return jnp.where(logits >= jnp.take(ranked, last[None], axis=-1), logits, MASKED)


def top_p(
  logits: Float[Array, '*batch vocabulary'], value: Float[Array, ''], counts=None
) -> Float[Array, '*batch vocabulary']:
  """Masks all but the most probable values that together reach the mass p; none where p is 1."""
  del counts
  probabilities = jax.nn.softmax(logits)
  ranked = jnp.sort(probabilities, axis=-1, descending=True)
  kept = (jnp.cumsum(ranked, -1) - ranked < value).sum(-1, keepdims=True)  # mass before each < p
  threshold = jnp.take_along_axis(ranked, kept - 1, axis=-1)
  return jnp.where((probabilities >= threshold) | (value >= 1), logits, MASKED)


def min_p(
  logits: Float[Array, '*batch vocabulary'], value: Float[Array, ''], counts=None
) -> Float[Array, '*batch vocabulary']:
  """Masks values less than p times as probable as the most probable one."""
  del counts
  least = logits.max(-1, keepdims=True) + jnp.log(value)
  return jnp.where(logits >= least, logits, MASKED)


PENALTIES = {'repetition_penalty': repetition_penalty, 'frequency_penalty': frequency_penalty}
SHAPES = {'temperature': temperature, 'top_k': top_k, 'top_p': top_p, 'min_p': min_p}
TRANSFORMS = PENALTIES | SHAPES  # in the order of application
TOGETHER = (PENALTIES.keys(), {'top_k', 'top_p'})  # each of them costs what all of them cost


def transform(
  logits: Float[Array, '*batch vocabulary'],
  numbers: Numbers,
  counts: Int[Array, '*batch vocabulary'] | None = None,
) -> Float[Array, '*batch vocabulary']:
  """Applies the transforms that `numbers` names, in the order of TRANSFORMS.

  Args:
    logits: over the vocabulary.
    numbers: what each transform takes.
    counts: how often each value was seen before; penalties need it.
  """
  for name, apply in TRANSFORMS.items():
    if name in numbers:
      logits = apply(logits, numbers[name], counts)
  return logits


def counted(numbers: Numbers) -> bool:
  """Whether a transform among `numbers` needs to know what was seen."""
  return bool(numbers.keys() & PENALTIES.keys())


@dataclasses.dataclass(frozen=True)
class Options:
  """Sampler settings, as in a config's `sampling` section.

  Attributes:
    temperature: divides the logits; 0: greedy.
    top_k: how many values to keep; 0: all.
    top_p: mass to keep, in (0, 1]; 1: all.
    min_p: least probability to keep, as a part of the greatest, in [0, 1]; 0: all.
    repetition_penalty: factor against what was seen; 1: none.
    frequency_penalty: subtracted for every time a value was seen; 0: none.
    greedy: always the most probable value.
    guidance: weight of the class against no class (Ho & Salimans 2022); 1: the class as trained.
      Needs a model trained with model.class_dropout.
    beams: width of beam search; 1: none.
    length_penalty: beams are ranked by log-probability / length^penalty.
    length: tokens or frames to make, what is given among them, where a sequence has no fixed
      length; 0: as many as the model was trained on.
    stop: token sequences, each a tuple, that end a sample where they are drawn; or texts, which
      the data's tokenizer makes such sequences of. A text that the model spells in other tokens
      than the tokenizer does not stop it; of bytes and characters there is one spelling.
    slide: whether a sequence may be longer than the model was trained on: where the context is
      full, drawing goes on from its last half.
    draft_ahead: tokens that a draft model, if there is one, proposes per pass of the large model.
    prefill_chunk: take in what is given in parts of so many emissions, for less memory; 0: what
      suits the network.

  Raises:
    ConfigError: for a value outside its range, or options that do not go together.
  """

  temperature: float = 1.0
  top_k: int = 0
  top_p: float = 1.0
  min_p: float = 0.0
  repetition_penalty: float = 1.0
  frequency_penalty: float = 0.0
  greedy: bool = False
  guidance: float = 1.0
  beams: int = 1
  length_penalty: float = 1.0
  length: int = 0
  stop: tuple = ()
  slide: bool = False
  draft_ahead: int = 4
  prefill_chunk: int = 0

  def __post_init__(self):
    checks = {
      'temperature': (self.temperature >= 0, '0 or more'),
      'top_k': (self.top_k >= 0, '0 (off) or more'),
      'top_p': (0 < self.top_p <= 1, 'in (0, 1]; 1 is off'),
      'min_p': (0 <= self.min_p <= 1, 'in [0, 1]; 0 is off'),
      'repetition_penalty': (self.repetition_penalty > 0, 'above 0; 1 is off'),
      'beams': (self.beams >= 1, '1 (off) or more'),
      'length': (self.length >= 0, '0 (as trained) or more'),
      'draft_ahead': (self.draft_ahead >= 1, '1 or more'),
      'prefill_chunk': (self.prefill_chunk >= 0, '0 (whole) or more'),
    }
    for name, (right, what) in checks.items():
      if not right:
        raise ConfigError(f'sampling.{name}={getattr(self, name)} must be {what}')
    if self.beams > 1 and (self.transforms() or self.guidance != 1):
      raise ConfigError(
        'beam search ranks by the model itself: sampling.beams goes with no transform or guidance'
      )
    if not all(isinstance(part, (tuple, str)) and part for part in self.stop):
      raise ConfigError(
        f'sampling.stop={self.stop!r}: a stop is a tuple of one token or more, or a text'
      )

  def transforms(self) -> dict[str, Float[Array, '']]:
    """The logits transforms that are on, with their numbers, in the order of application."""
    off = dict(repetition_penalty=1, frequency_penalty=0, temperature=1, top_k=0, top_p=1, min_p=0)
    on = {k: jnp.float32(getattr(self, k)) for k, v in off.items() if getattr(self, k) != v}
    return {k: v for k, v in on.items() if k in PENALTIES or not self.greedy}

  def numbers(self) -> dict[str, Float[Array, '']]:
    """What decoding takes: `transforms`, and those that are off but make no other program of it."""
    chosen = self.transforms().keys() | ({} if self.greedy else {'temperature', 'min_p'})
    for group in TOGETHER:
      chosen |= group if chosen & group else set()
    return {name: jnp.float32(getattr(self, name)) for name in TRANSFORMS if name in chosen}

  def stops(self) -> Int[Array, 'stops longest'] | None:
    """Stop sequences as rows, aligned at their ends and filled up with -1; None: there are none.

    Texts among them must have become tokens. Both sizes are powers of two, so that other stops make
    no other program: the last row is there more than once.
    """
    if not self.stop:
      return None
    number, longest = (
      1 << (n - 1).bit_length() for n in (len(self.stop), max(map(len, self.stop)))
    )
    rows = [(-1,) * (longest - len(part)) + part for part in self.stop]
    return jnp.array(rows + rows[-1:] * (number - len(rows)), jnp.int32)
