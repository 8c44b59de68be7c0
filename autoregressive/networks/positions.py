"""Positions of a transformer: how an attention layer learns where a token stands.

'learned' and 'sinusoidal' embeddings are added to the input, 'rotary' ones rotate queries and keys,
'alibi' adds a bias to the scores. With 'none', only the causal mask tells positions apart.
"""

import math
from collections.abc import Mapping, Sequence

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from common.config import ConfigError, pick

POSITIONS = ('learned', 'sinusoidal', 'rotary', 'alibi', 'none')


def sinusoidal(
  positions: Int[Array, '*batch length'], width: int
) -> Float[Array, '*batch length width']:
  """Sines, then cosines, of wavelengths 2π to 10000·2π (Vaswani et al. 2017, section 3.5)."""
  half = width // 2
  # In NumPy, so that the table's frequencies are constants of the program, rounded once.
  frequencies = np.exp(-math.log(10_000.0) * np.arange(half) / half).astype(np.float32)
  angles = positions[..., None].astype(jnp.float32) * frequencies
  table = jnp.concatenate([jnp.sin(angles), jnp.cos(angles)], -1)
  # An odd width has one channel more than sines and cosines fill: zero.
  return jnp.pad(table, [(0, 0)] * (table.ndim - 1) + [(0, width - 2 * half)])


def _linear(frequencies, base, dim, factor):
  """Positions divided by the factor (Chen et al. 2023)."""
  return frequencies / factor


def _ntk(frequencies, base, dim, factor):
  """A larger base: the fastest frequency stays, the slowest is divided by the factor."""
  if dim == 2:
    return frequencies  # the only one, 1, does not depend on the base
  # The exponent makes base^(-(dim - 2)/dim), the slowest frequency, exactly 1/factor as fast.
  base = base * factor ** (dim / (dim - 2))
  return base ** (-np.arange(0, dim, 2) / dim)


LLAMA3_TURNS = (1.0, 4.0)  # the defaults of `low` and `high` in 'llama3'


def _llama3(frequencies, base, dim, factor, original_length, *bounds):
  """Fast frequencies stay, slow ones are divided by the factor (Grattafiori et al. 2024)."""
  low, high = (*bounds, *LLAMA3_TURNS[len(bounds) :])
  turns = original_length * frequencies / (2 * math.pi)  # full turns over the original length
  # Frequencies of at least `high` turns stay, those of at most `low` are divided; linear between.
  keep = np.clip((turns - low) / (high - low), 0.0, 1.0)
  return keep * frequencies + (1 - keep) * frequencies / factor


YARN_TURNS = (32.0, 1.0)  # the defaults of `fast` and `slow` in 'yarn'


def _yarn(frequencies, base, dim, factor, original_length, *more):
  """Fast frequencies stay, slow ones are divided by the factor (Peng et al. 2023, section 3.2).

  Linear between the two in the number of the pair, not of its frequency.
  """
  fast, slow, _, whole = more  # `rotary_magnitude` takes the third

  def pair(turns):  # the pair of dimensions that makes so many turns over the original length
    return dim * math.log(original_length / (turns * 2 * math.pi)) / (2 * math.log(base))

  first, last = pair(fast), pair(slow)
  if whole:
    first, last = math.floor(first), math.ceil(last)
  first, last = max(first, 0), min(last, dim - 1)
  last += 1e-3 * (first == last)  # a step instead of a slope
  divided = np.clip((np.arange(dim // 2) - first) / (last - first), 0.0, 1.0)
  return (1 - divided) * frequencies + divided * frequencies / factor


def _proportional(frequencies, base, dim, factor, fraction):
  """The fastest pairs alone are rotated, with the frequencies of a whole head."""
  rotated = np.arange(dim // 2) < int(fraction * dim // 2)
  return np.where(rotated, frequencies, 0.0) / factor


SCALINGS: Mapping = {
  'linear': _linear,
  'ntk': _ntk,
  'llama3': _llama3,
  'yarn': _yarn,
  'proportional': _proportional,
}
# {name: (its values, the least and the largest number of them)}
SCALING_VALUES: Mapping[str, tuple[str, int, int]] = {
  'linear': ('factor', 1, 1),
  'ntk': ('factor', 1, 1),
  'llama3': ('factor, original length, low, high', 2, 4),
  'yarn': ('factor, original length, fast, slow, magnitude, whole', 6, 6),
  'proportional': ('factor, fraction', 2, 2),
}


def rotary_frequencies(dim: int, base: float = 10_000.0, scaling: tuple = ()) -> np.ndarray:
  """Radians per position of each pair of dimensions (Su et al. 2021, section 3.2.2).

  Args:
    dim: dimensions of a head, an even number.
    base: the longest wavelength is about 2π·base.
    scaling: () or (name, factor, ...) for sequences longer than in training: 'linear' (Chen et
      al. 2023), 'ntk' (a larger base), 'llama3' with the original length after the factor
      (Grattafiori et al. 2024; low and high turns may follow), 'yarn' (Peng et al. 2023; whole: 1
      if the bounds between fast and slow pairs are rounded, otherwise 0), 'proportional' (a
      fraction of the pairs).

  Raises:
    ConfigError: for an odd dim, or a scaling that is unknown or lacks a value.
  """
  if dim % 2:
    raise ConfigError(f'rotary positions need heads of an even dimension, got {dim}')
  frequencies = base ** (-np.arange(0, dim, 2) / dim)
  if not scaling:
    return frequencies
  name, *values = scaling
  scale = pick(SCALINGS, name, 'rotary scaling')
  _check_scaling(name, values)
  return scale(frequencies, base, dim, *values)


def rotary_magnitude(scaling: tuple = ()) -> float:
  """The factor of cosines and sines: 'yarn' scales the scores (Peng et al. 2023, section 3.4)."""
  return scaling[5] if scaling and scaling[0] == 'yarn' else 1.0


def _check_scaling(name: str, values: Sequence) -> None:
  """Raises ConfigError unless a scaling has its values: numbers above 0, and low below high."""
  form, fewest, most = SCALING_VALUES[name]
  flags = values[5:]  # 'whole' of yarn
  valid = fewest <= len(values) <= most and all(
    isinstance(value, int | float) and 0 < value < math.inf for value in values[:5]
  )
  valid = valid and all(flag in (0, 1) for flag in flags)
  bounds = values[2:] if name == 'llama3' else ()
  if not valid or (bounds and not bounds[0] < (*bounds, *LLAMA3_TURNS[len(bounds) :])[1]):
    raise ConfigError(
      f'rotary scaling must be ({name!r}, {form}), with numbers above 0 and low below high, got '
      f'{(name, *values)}'
    )


def rotation(
  positions: Int[Array, '*batch length'], frequencies: np.ndarray, magnitude: float = 1.0
) -> tuple[Float[Array, '*batch length half'], Float[Array, '*batch length half']]:
  """Cosines and sines of position · frequency, times the magnitude, as `rotate` takes them."""
  # In float32 from here on: bfloat16 has 8 bits, too few to tell position 1000 from 1001.
  angles = positions[..., None].astype(jnp.float32) * frequencies.astype(np.float32)
  cos, sin = jnp.cos(angles), jnp.sin(angles)
  return (cos, sin) if magnitude == 1 else (magnitude * cos, magnitude * sin)


def rotate(
  x: Float[Array, '*heads length dim'],
  cos: Float[Array, '*#heads length half'],
  sin: Float[Array, '*#heads length half'],
) -> Float[Array, '*heads length dim']:
  """Rotates each pair (x[i], x[i + dim/2]) by its position's angle (Su et al. 2021, equation 13).

  The product of a rotated query and a rotated key depends only on the difference of their
  positions. Dimensions beyond 2·half stay as they are.
  """
  # Halves, as in Llama; the paper pairs neighbours, which only permutes the dimensions.
  half = cos.shape[-1]
  first, second, rest = x[..., :half], x[..., half : 2 * half], x[..., 2 * half :]
  cos, sin = cos.astype(x.dtype), sin.astype(x.dtype)
  turned = [first * cos - second * sin, second * cos + first * sin]
  return jnp.concatenate([*turned, rest] if rest.shape[-1] else turned, -1)


def alibi_slopes(heads: int) -> np.ndarray:
  """Slope of each head's linear bias (Press et al. 2022): 2^-1 ... 2^-8 for eight heads.

  If the number of heads is not a power of two, the heads beyond the last power of two take every
  second slope of the next one, as in the authors' code.
  """
  # A geometric sequence from 2^(-8/n) on, with that ratio, for n heads (section 3).
  power = 2 ** math.floor(math.log2(heads))
  slopes = 2.0 ** (-8.0 / power * np.arange(1, power + 1))
  more = 2.0 ** (-4.0 / power * np.arange(1, 2 * power + 1, 2))
  return np.concatenate([slopes, more])[:heads].astype(np.float32)
