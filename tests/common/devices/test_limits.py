"""Peaks by kind of device; what is said when a device has no memory left."""

import jax
import jax.numpy as jnp
import pytest

from common.devices import limits
from common.devices.limits import OutOfMemoryError, out_of_memory, peak_flops, peak_memory


@pytest.mark.parametrize(
  ('name', 'dtype', 'tera'),
  [
    ('NVIDIA H100 80GB HBM3', 'bfloat16', 989.4),
    ('NVIDIA H200', 'float32', 494.7),
    ('NVIDIA A100-SXM4-80GB', 'bfloat16', 312),
    ('NVIDIA A100-SXM4-80GB', 'float16', 312),
    ('TPU v4', 'float32', 275),
    ('TPU v5 lite', 'bfloat16', 197),
  ],
)
def test_the_peak_of_eight_devices(name, dtype, tera):
  assert peak_flops(name, 8, dtype) == pytest.approx(8e12 * tera)


def test_no_peak_is_guessed_for_an_unknown_device():
  # A part of a card has another name than the card.
  for name in ('NVIDIA H100 80GB HBM3 MIG 1g.10gb', 'NVIDIA H100 PCIe', 'some device'):
    assert peak_flops(name, 1, 'bfloat16') is None
  assert peak_flops(jax.devices()[0].device_kind, 1, 'float32') is None and peak_memory() is None


def test_a_dense_peak_in_float32_is_at_most_that_in_bfloat16():
  assert all(0 < single <= half for half, single in limits.PEAK_TFLOPS.values())


def test_exhausted_memory_is_one_line_with_advice():
  with pytest.raises(OutOfMemoryError) as error, out_of_memory('sampling', 'lower --num'):
    jnp.zeros(2**50, jnp.uint8)
  assert str(error.value) == (
    'out of memory on the device while sampling: lower --num. '
    'The device says: Out of memory allocating 1125899906842624 bytes.'
  )


def test_other_errors_of_a_device_stay_as_they_are():
  def fails(x):
    raise RuntimeError('no result')

  result = jax.ShapeDtypeStruct((), jnp.float32)
  with pytest.raises(jax.errors.JaxRuntimeError, match='no result'), out_of_memory('', ''):
    jax.block_until_ready(jax.jit(lambda x: jax.pure_callback(fails, result, x))(1.0))
