"""Settings of decoding: the `sampling` section of a config."""

import dataclasses
from collections.abc import Mapping
from typing import Annotated, Any

import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from autoregressive.decoding.transforms import OFF, PENALTIES, SHARED_COST, TRANSFORMS
from common.config import ConfigError, as_tuple, check_settings
from common.ranges import FINITE, ZERO_IS_OFF, Interval, settings_of, suggestion


@dataclasses.dataclass(frozen=True)
class DecodingSettings:
  """How samples are decoded.

  Hashable, so that it can be a static argument of a program.

  Attributes:
    temperature: divides the logits; 0: greedy.
    top_k: number of values to keep; 0: all.
    top_p: probability mass to keep, in (0, 1]; 1: all.
    min_p: smallest probability to keep, as a fraction of the largest, in [0, 1]; 0: all.
    repetition_penalty: factor that makes values seen before less probable; 1: none.
    frequency_penalty: subtracted from a logit each time its value was seen; 0: none.
    greedy: always choose the most probable value.
    guidance: weight of classifier-free guidance (1 + w in Ho & Salimans 2022); 1: none. Needs a
      model trained with model.class_dropout.
    beams: width of beam search; 1: none.
    length_penalty: beams are ranked by log-probability / length^penalty.
    length: length of a sample in tokens or frames, the prompt included, for data without a fixed
      length; 0: the length that the model was trained on.
    stop: token sequences, each a tuple, that end a sample when drawn; or texts, which the
      tokenizer of the data turns into such sequences. A text that the model spells with other
      tokens than the tokenizer does not stop it; bytes and characters have only one spelling.
    slide: whether a sequence may be longer than the model's context: when the context is full,
      decoding continues from its last half.
    draft_ahead: tokens that a draft model, if there is one, proposes per pass of the target model.
    prefill_chunk: process the prompt in parts of this many emissions, to save memory; 0: chosen
      by the network.

  Raises:
    ConfigError: for settings that exclude each other, or stops that are none.
  """

  temperature: Annotated[float, Interval(0, note='0: greedy')] = 1.0
  top_k: Annotated[int, ZERO_IS_OFF] = 0
  top_p: Annotated[float, Interval(0, 1, above=True, note='1: off')] = 1.0
  min_p: Annotated[float, Interval(0, 1, note='0: off')] = 0.0
  repetition_penalty: Annotated[float, Interval(0, above=True, note='1: off')] = 1.0
  frequency_penalty: Annotated[float, FINITE] = 0.0
  greedy: bool = False
  guidance: Annotated[float, FINITE] = 1.0
  beams: Annotated[int, Interval(1, 1000, note='1: off')] = 1
  length_penalty: Annotated[float, FINITE] = 1.0
  length: Annotated[int, Interval(0, 10**6, note='0: the length trained on')] = 0
  stop: tuple = ()
  slide: bool = False
  draft_ahead: Annotated[int, Interval(1, 1000)] = 4
  prefill_chunk: Annotated[int, Interval(0, note='0: chosen by the network')] = 0

  def __post_init__(self):
    # Beams are ranked by log-probabilities without transforms.
    if self.beams > 1 and (self.active_transforms() or self.guidance != 1):
      raise ConfigError(
        f'sampling.beams={self.beams} ranks by the log-probability of the model itself: turn off '
        'the temperature, truncations, penalties and guidance, or set sampling.beams=1'
      )
    if not all(isinstance(part, (tuple, str)) and part for part in self.stop):
      raise ConfigError(
        'sampling.stop must hold texts or tuples of at least one token, none of them empty; '
        f'got {self.stop!r}'
      )

  def active_transforms(self) -> dict[str, Float[Array, '']]:
    """The logit transforms that are on, with their values, in the order of application."""
    values = dataclasses.asdict(self)
    on = {name: jnp.float32(values[name]) for name in TRANSFORMS if values[name] != OFF[name]}
    # The argmax is the same at any temperature and truncation, but not under penalties.
    return {name: x for name, x in on.items() if name in PENALTIES or not self.greedy}

  def program_transforms(self) -> dict[str, Float[Array, '']]:
    """The transforms that the compiled program contains: `active_transforms`, and those that are
    off but cost almost nothing, so that few programs serve a sweep over all settings."""
    chosen = self.active_transforms().keys()
    # At 1 and 0 they change nothing, at the cost of one division and one comparison.
    chosen |= set() if self.greedy else {'temperature', 'min_p'}
    for group in SHARED_COST:
      chosen |= group if chosen & group else set()
    values = dataclasses.asdict(self)
    return {name: jnp.float32(values[name]) for name in TRANSFORMS if name in chosen}

  def stop_rows(self) -> Int[Array, 'stops longest'] | None:
    """Stop sequences as rows, right-aligned and padded with -1; None if there are none.

    Texts must already be tokens. Both sizes are rounded up to powers of two, so that other stops do
    not compile another program; the last stop is repeated in the rows left over.
    """
    if not self.stop:
      return None
    rows, longest = len(self.stop), max(map(len, self.stop))
    # 2^⌈log₂ n⌉
    rows, longest = (1 << (n - 1).bit_length() for n in (rows, longest))
    padded = [(-1,) * (longest - len(part)) + part for part in self.stop]
    return jnp.array(padded + padded[-1:] * (rows - len(padded)), jnp.int32)


def with_options(section: Mapping, options: Mapping[str, Any]) -> dict[str, Any]:
  """A config's `sampling` section with options in the place of its settings.

  A single stop may stand for a tuple of stops, and a single token for a sequence of one token.

  Raises:
    ConfigError: for an option that is unknown, of another type, or out of its range, or for options
      that exclude each other.
  """
  known = settings_of(DecodingSettings)
  for name in options:
    if name not in known:
      raise ConfigError(f'unknown sampling option {name!r};{suggestion(name, known)}')
  chosen = {name: as_tuple(value) for name, value in (dict(section) | options).items()}
  stops = chosen.get('stop', ())
  # A single text or token is short for a tuple of it.
  stops = stops if isinstance(stops, tuple) else (stops,)
  chosen['stop'] = tuple((part,) if isinstance(part, int) else part for part in stops)
  check_settings('sampling', chosen, known)
  DecodingSettings(**chosen)  # raises for settings that exclude each other
  return chosen


def build_settings(section: Mapping, **options) -> DecodingSettings:
  """Decoding settings from a config's `sampling` section and options; see `with_options`.

  Raises:
    ConfigError: for a setting that is unknown or out of range.
  """
  chosen = with_options(section, options)
  return DecodingSettings(**chosen)
