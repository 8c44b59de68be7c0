"""Digests follow their definition, do not depend on sharding, and notice every change."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from common.checkpoints import digests as module
from common.checkpoints.digests import digests

DTYPES = ['float32', 'bfloat16', 'float16', 'float8_e4m3fn', 'int32', 'int8', 'uint16', 'complex64']


def lowbias32(x: int) -> int:
  x = (x ^ (x >> 16)) * 0x7FEB352D % 2**32
  x = (x ^ (x >> 15)) * 0x846CA68B % 2**32
  return x ^ (x >> 16)


def by_hand(words: list[int]) -> str:
  """The two sums in Python integers."""
  flipped = [(i ^ (2**32 - 1)) * 0x9E3779B1 % 2**32 for i in range(len(words))]
  first = sum(w * (lowbias32(i) | 1) for i, w in enumerate(words)) % 2**32
  second = sum(w * (lowbias32(j) | 1) for j, w in zip(flipped, words, strict=True)) % 2**32
  return f'{first:08x}{second:08x}'


def example(dtype: str, shape=(8, 6)) -> jax.Array:
  values = jax.random.normal(jax.random.key(0), shape) * 20
  return values.astype(dtype)


def digest(x) -> str:
  return digests({'x': x})['x']


def all_different_from_first(arrays) -> bool:
  """Whether each of the two sums distinguishes the first array from each of the others."""
  sums = np.asarray(jax.jit(jax.vmap(module.digest))(np.stack(arrays)))  # [array, word, sum]
  return bool((sums[1:] != sums[:1]).any(axis=1).all())


def test_digest_follows_its_definition():
  x = np.asarray(example('float32'))
  assert digest(jnp.asarray(x)) == by_hand(x.view(np.uint32).ravel().tolist())
  b = np.asarray(example('bfloat16'))
  assert digest(jnp.asarray(b)) == by_hand(b.view(np.uint16).ravel().tolist())


def test_same_on_any_number_of_devices_and_for_any_sharding():
  leaves = {dtype: example(dtype, (8, 16)) for dtype in ('float32', 'bfloat16', 'complex64')}
  expected = digests({dtype: np.asarray(x) for dtype, x in leaves.items()})
  for count in (1, 2, 4, 8):
    devices = np.array(jax.devices()[:count])
    for shape, spec in (((count, 1), P('a')), ((1, count), P('a', 'b')), ((count, 1), P())):
      mesh = jax.sharding.Mesh(devices.reshape(shape), ('a', 'b'), axis_types=(AxisType.Auto,) * 2)
      assert digests(jax.device_put(leaves, NamedSharding(mesh, spec))) == expected


@pytest.mark.parametrize('dtype', DTYPES)
def test_notices_every_single_bit(dtype):
  x = np.asarray(example(dtype, (3, 5)))
  raw = x.tobytes()
  changed = [x]
  for bit in range(8 * len(raw)):
    flipped = bytearray(raw)
    flipped[bit // 8] ^= 1 << bit % 8
    changed.append(np.frombuffer(bytes(flipped), x.dtype).reshape(x.shape))
  assert all_different_from_first(changed)


def test_notices_swapped_elements():
  x = np.asarray(example('float32', (64,)))
  swapped = [x]
  for i in range(0, 64, 3):
    for j in range(i + 1, 64, 5):
      swapped.append(x.copy())
      swapped[-1][[i, j]] = x[[j, i]]
  assert all_different_from_first(swapped)


def test_doubles_are_noticed_in_either_half():
  with jax.enable_x64(True):
    x = np.asarray(example('float32'), np.float64)
    for bit in (0, 31, 32, 63):
      y = x.copy()
      y.view(np.uint64)[2, 3] ^= np.uint64(1) << np.uint64(bit)
      assert digest(jnp.asarray(y)) != digest(jnp.asarray(x))


def test_keys_booleans_scalars_and_empty_arrays():
  keys = jax.random.split(jax.random.key(1), 3)
  assert digest(keys) == digest(jax.random.key_data(keys))
  assert digest(jnp.array([True, False])) == digest(jnp.array([1, 0], jnp.uint8))
  assert digest(jnp.float32(1)) == digest(np.ones((), 'float32')) != digest(jnp.float32(2))
  assert digest(jnp.zeros((0, 3))) == '0' * 16


def test_leaves_on_different_devices_in_one_call():
  here, there = jax.devices()[:2]
  x = example('float32')
  found = digests({'a': jax.device_put(x, here), 'b': jax.device_put(x, there)})
  assert found['a'] == found['b'] == digest(x)
