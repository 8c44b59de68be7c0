"""Operations of traced programs, against the products of their dimensions."""

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import AxisType
from jax.sharding import PartitionSpec as P

from common import flops

X, W = jnp.ones((4, 5)), jnp.ones((5, 5))
PRODUCT = 2 * 4 * 5 * 5
IMAGES, KERNEL = jnp.ones((2, 8, 8, 6)), jnp.ones((3, 3, 2, 9))  # three groups of two channels


def count(function, *arguments):
  return flops.count(jax.jit(function).trace(*arguments).jaxpr.jaxpr)


def repeated(x, w):
  return jax.lax.scan(lambda carry, _: (carry @ w, None), x, None, length=3)[0].sum()


def mapped(x, w):
  """Each of two devices of four multiplies its half of x."""
  mesh = jax.make_mesh((2, 2), ('a', 'b'), axis_types=(AxisType.Auto,) * 2)
  halves = dict(in_specs=(P('a'), P()), out_specs=P('a'), axis_names={'a'})
  return jax.shard_map(jnp.matmul, mesh=mesh, **halves)(x, w)


def convolved(x, w, stride=1):
  out = jax.lax.conv_general_dilated(
    x,
    w,
    (stride, stride),
    'SAME',
    dimension_numbers=('NHWC', 'HWIO', 'NHWC'),
    feature_group_count=3,
  )
  return out.sum()


def branches(x, w):
  return jax.lax.cond(x.sum() > 0, lambda: x @ w @ w, lambda: x @ w)


def until_positive(x, w):
  return jax.lax.while_loop(lambda x: (x @ w).sum() < 0, lambda x: x @ w, x)


@pytest.mark.parametrize(
  ('function', 'arguments', 'expected'),
  [
    (jnp.matmul, (X, W), PRODUCT),
    (lambda x, w: jnp.einsum('bij,bjk->bik', x, w), (jnp.stack([X] * 3), jnp.stack([W] * 3)), 3),
    (repeated, (X, W), 3),
    (jax.grad(repeated, argnums=1), (X, W), 9),  # backward, each product becomes two
    (jax.checkpoint(repeated), (X, W), 3),
    (branches, (X, W), 2),
    (mapped, (X, W), 1),
    (until_positive, (X, W), 2),  # one pass: its condition and its body
    (jnp.tanh, (X,), 0),
  ],
)
def test_products(function, arguments, expected):
  assert count(function, *arguments) == (expected if expected == PRODUCT else expected * PRODUCT)


@pytest.mark.parametrize('stride', [1, 2])
def test_convolutions_and_their_gradients(stride):
  forward = 2 * IMAGES.shape[0] * (8 // stride) ** 2 * 9 * (3 * 3 * 2)
  convolve = lambda x, w: convolved(x, w, stride)
  assert count(convolve, IMAGES, KERNEL) == forward
  assert count(jax.value_and_grad(convolve, argnums=(0, 1)), IMAGES, KERNEL) == 3 * forward
