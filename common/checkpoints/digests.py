"""Checksums of arrays, computed on the devices that hold them.

A digest consists of two sums modulo 2³² of the 32-bit words of an array, each word multiplied by an
odd number that depends on its position. A sum of integers does not depend on the order of its
terms, so the digest is the same for every sharding, number of devices and number of processes, and
no array is copied to the host. An odd number is invertible modulo 2³², so a change of one element
always changes both sums. A change of several elements leaves one sum unchanged with probability
2⁻³²; the two sums have unrelated multipliers.
"""

from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, UInt32

WORDS = {  # {bits of an element: unsigned integers with the same bits}
  2: jnp.uint2,
  4: jnp.uint4,
  8: jnp.uint8,
  16: jnp.uint16,
  32: jnp.uint32,
  64: jnp.uint32,  # two words
}


def digests(leaves: Mapping[str, Array | np.ndarray]) -> dict[str, str]:
  """The digest of each array, in hexadecimal.

  Args:
    leaves: arrays of any type (also typed keys) and sharding. With several processes, all of them
      must call this function with the same names.
  """
  # One program per leaf, because leaves of the same shape (parameters, average, moments) share it.
  # Each result is fetched before the next program starts: sums over shards are collectives, and
  # XLA's collectives on CPUs deadlock when several independent programs run at once.
  sums = {name: jax.device_get(digest(x)) for name, x in leaves.items()}
  return {name: ''.join(f'{word:08x}' for word in s.ravel()) for name, s in sums.items()}


@jax.jit
def digest(x: Array | np.ndarray) -> UInt32[Array, 'words sums']:
  """The digest of one array: for each 32-bit word of an element, two sums over the elements."""
  words = as_words(x)
  index = jnp.zeros(words.shape[:-1], jnp.uint32)
  # The position in row-major order, modulo 2³². It is built axis by axis, because a reshape would
  # gather a sharded array.
  for axis, size in enumerate(index.shape):
    index = index * np.uint32(size % 2**32) + jax.lax.broadcasted_iota(
      jnp.uint32, index.shape, axis
    )
  axes = tuple(range(index.ndim))
  # `| 1` makes the multipliers odd. The second multipliers mix the complement of the position times
  # a prime near 2³² / golden ratio, so that they are unrelated to the first.
  sums = [
    jnp.sum(words * multipliers[..., None], axes, dtype=jnp.uint32)
    for multipliers in (mix(index) | 1, mix(~index * np.uint32(0x9E3779B1)) | 1)
  ]
  return jnp.stack(sums, axis=-1)


def as_words(x: Array | np.ndarray) -> UInt32[Array, '... words']:
  """The bits of each element as 32-bit words, along a new last axis."""
  x = jnp.asarray(x)
  if jnp.issubdtype(x.dtype, jax.dtypes.prng_key):
    x = jax.random.key_data(x)
  if jnp.issubdtype(x.dtype, jnp.complexfloating):
    x = jnp.stack([x.real, x.imag], axis=-1)
  if x.dtype == jnp.bool_:  # booleans have no bitcast
    x = x.astype(jnp.uint8)
  bits = jax.dtypes.itemsize_bits(x.dtype)
  words = jax.lax.bitcast_convert_type(x, WORDS[bits])
  return words if bits == 64 else words.astype(jnp.uint32)[..., None]


def mix(x: UInt32[Array, '...']) -> UInt32[Array, '...']:
  """A bijection of 32-bit words in which each output bit depends on all input bits.

  Two rounds of xor-shift and multiplication, with the constants of least bias that C. Wellons found
  by search ("Prospecting for Hash Functions", 2018: lowbias32).
  """
  x = (x ^ (x >> 16)) * np.uint32(0x7FEB352D)
  x = (x ^ (x >> 15)) * np.uint32(0x846CA68B)
  return x ^ (x >> 16)
