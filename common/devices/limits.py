"""Limits of devices: their peak rate, their memory, and what to do when it is exhausted."""

import contextlib
from collections.abc import Iterator, Mapping

import jax

# {kind of device, as JAX names it: (bfloat16, float32)}: the dense peak of matrix products in
# TFLOP/s. Vendors also print figures for sparse matrices, which are twice as high. On these GPUs
# float16 has the rate of bfloat16.
#
# At JAX's default precision, a float32 product runs as tensorfloat32 on these GPUs, at half the
# rate, and as one bfloat16 product on TPUs, at the full rate (`jax.lax.Precision`).
#
# GPUs: NVIDIA's data sheets of H100 and H200 (SXM: 989.4, or 1,979 sparse) and A100 (312 and 156).
# TPUs: cloud.google.com/tpu/docs/{v3,v4,v5e,v5p,v6e}, 'peak compute per chip'; a v3 chip (123) has
# two devices.
PEAK_TFLOPS: Mapping[str, tuple[float, float]] = {
  'NVIDIA H100 80GB HBM3': (989.4, 494.7),
  'NVIDIA H200': (989.4, 494.7),
  'NVIDIA A100-SXM4-40GB': (312.0, 156.0),
  'NVIDIA A100-SXM4-80GB': (312.0, 156.0),
  'NVIDIA A100-PCIE-40GB': (312.0, 156.0),
  'NVIDIA A100 80GB PCIe': (312.0, 156.0),
  'TPU v3': (61.5, 61.5),
  'TPU v4': (275.0, 275.0),
  'TPU v5 lite': (197.0, 197.0),
  'TPU v5e': (197.0, 197.0),
  'TPU v5': (459.0, 459.0),
  'TPU v5p': (459.0, 459.0),
  'TPU v6 lite': (918.0, 918.0),
  'TPU v6e': (918.0, 918.0),
}

# {kind of device: the bandwidth of its memory in TB/s}, from the same data sheets of NVIDIA's.
MEMORY_BANDWIDTH: Mapping[str, float] = {
  'NVIDIA H100 80GB HBM3': 3.35,
  'NVIDIA H200': 4.8,
  'NVIDIA A100-SXM4-40GB': 1.555,
  'NVIDIA A100-SXM4-80GB': 2.039,
}


def peak_flops(kind: str, number: int, dtype: str) -> float | None:
  """The dense peak of some devices together, in FLOP/s; None if it is unknown.

  Args:
    kind: the kind of all devices, as JAX names it.
    number: the number of devices.
    dtype: the type of the products: 'bfloat16', 'float16' or 'float32'.
  """
  if kind not in PEAK_TFLOPS:
    return None
  half, single = PEAK_TFLOPS[kind]
  return number * 1e12 * (single if dtype == 'float32' else half)


def peak_memory() -> int | None:
  """The most bytes that any device of this process has had in use; None where none tells (CPUs)."""
  stats = [device.memory_stats() or {} for device in jax.local_devices()]
  return max((s['peak_bytes_in_use'] for s in stats if 'peak_bytes_in_use' in s), default=None)


class OutOfMemoryError(RuntimeError):
  """The memory of a device is exhausted. The message names settings that need less."""


@contextlib.contextmanager
def out_of_memory(doing: str, advice: str) -> Iterator[None]:
  """Turns JAX's error about exhausted memory into an `OutOfMemoryError`.

  Args:
    doing: what needed the memory, after 'while': 'training'.
    advice: what to do, such as which settings to lower.
  """
  try:
    yield
  except jax.errors.JaxRuntimeError as error:
    status, _, reason = str(error).partition(': ')
    if status != 'RESOURCE_EXHAUSTED':
      raise
    reason = reason.partition('\n')[0]
    raise OutOfMemoryError(
      f'out of memory on the device while {doing}: {advice}. The device says: {reason}'
    ) from error
