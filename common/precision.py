"""Products of 16-bit arrays whose sums are float32, and the scaled loss that float16 needs.

See docs/precision.md.
"""

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Annotated, Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from common.config import ConfigError
from common.ranges import Interval


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


@dataclasses.dataclass(frozen=True)
class LossScaling:
  """A factor of the loss, 2^s, that keeps its gradient within the range of float16.

  Float16 ends at 65,504, and numbers below 6·10⁻⁸ are 0 (Micikevicius et al. 2018). The loss is
  multiplied by 2^s before its gradient is computed, and the gradient is divided by it in float32.
  Then s grows a little, or falls by 1 if the gradient was not finite (the code of improved DDPM and
  ADM, openai/guided-diffusion: fp16_util.py).

  Attributes:
    initial: log2 of the factor at the first step.
    growth: what each good step adds to log2 of the factor.
  """

  initial: Annotated[float, Interval(0, 100)] = 20.0
  growth: Annotated[float, Interval(0, 1, note='0: it only falls')] = 1e-3

  def start(self) -> Float[Array, '']:
    """s at the first step."""
    return jnp.asarray(self.initial, jnp.float32)

  def after(self, s: Float[Array, ''], good: Bool[Array, '']) -> Float[Array, '']:
    """s after a step, which was `good` if its loss and gradient were finite."""
    return jnp.where(good, s + self.growth, s - 1)


def scaled_gradient(
  loss: Callable[..., tuple[Float[Array, ''], Any]], s: Float[Array, ''], params: Any, *inputs: Any
) -> tuple[tuple[Float[Array, ''], Any], Any]:
  """`jax.value_and_grad(loss, has_aux=True)`, with the loss at 2^s times its size in between.

  Args:
    loss: (params, *inputs) -> (value, auxiliary outputs).
    s: log2 of the factor.
    params: what the gradient is of, in float32.
    *inputs: the other arguments of `loss`.
  """
  factor = jnp.exp2(s)
  differentiate = jax.value_and_grad(functools.partial(_times_loss, loss, factor), has_aux=True)
  (_, outputs), grads = differentiate(params, *inputs)
  return outputs, jax.tree.map(lambda g: g / factor, grads)


def _times_loss(loss, factor, params, *inputs):
  value, aux = loss(params, *inputs)
  return factor * value, (value, aux)


def make_loss_scaling(config: Mapping) -> LossScaling | None:
  """The scaling of a config's loss: None unless its precision is float16.

  Raises:
    ConfigError: for settings that would have no effect, or would hide an overflow.
  """
  scaling = LossScaling(**config['train']['loss_scale'])
  if config['precision'] != 'float16':
    if scaling != LossScaling():
      raise ConfigError(
        f'train.loss_scale has no effect with precision={config["precision"]!r}: leave it out, or '
        "set precision='float16'"
      )
    return None
  if config['optimizer']['nan_to_num']:
    raise ConfigError(
      "optimizer.nan_to_num hides the overflows that lower the loss scale of precision='float16': "
      'set it to 0'
    )
  return scaling
