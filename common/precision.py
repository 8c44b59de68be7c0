"""Products of bfloat16 arrays whose sums are float32; see docs/precision.md."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array


@functools.partial(jax.custom_jvp, nondiff_argnums=(0,))
def sum_in_float32(product: Callable[..., Array], x: Array, y: Array) -> Array:
  """product(x, y) in float32, for x and y of one type; its gradients are products of that type.

  Args:
    product: a bilinear function with an argument `preferred_element_type`, such as `jnp.matmul`.
    x, y: its operands.
  """
  return product(x, y, preferred_element_type=jnp.float32)


@sum_in_float32.defjvp
def _sum_in_float32_jvp(product, primals, tangents):
  # JAX's own rule would multiply the float32 gradient of the sums by an operand in float32.
  (x, y), (dx, dy) = primals, tangents
  tangent = product(dx, y) + product(x, dy)
  return sum_in_float32(product, x, y), tangent.astype(jnp.float32)


def einsum(formula: str, x: Array, y: Array) -> Array:
  """`jnp.einsum` of two arrays, in float32."""
  return sum_in_float32(functools.partial(jnp.einsum, formula), x, y)


def dot_general(x: Array, y: Array, dimension_numbers: Any, precision: Any = None) -> Array:
  """`jax.lax.dot_general` in float32, for the argument `dot_general` of flax's layers."""
  product = functools.partial(
    jax.lax.dot_general, dimension_numbers=dimension_numbers, precision=precision
  )
  return sum_in_float32(product, x, y)
