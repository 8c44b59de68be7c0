import jax
import jax.numpy as jnp
import numpy as np

from diffusion.networks.attention import attend


def _inputs(dtype=jnp.float32, scale=1.0):
  keys = jax.random.split(jax.random.key(0), 3)
  shapes = [(2, 7, 3, 8), (2, 9, 3, 8), (2, 9, 3, 8)]
  return [scale * jax.random.normal(k, s, dtype) for k, s in zip(keys, shapes, strict=True)]


def test_equals_jax_forward_and_backward():
  for scale in (1.0, 30.0):  # 30: scores in the thousands, which only a shifted softmax survives
    inputs = _inputs(scale=scale)
    loss = lambda f: lambda *a: jnp.sum(jnp.sin(f(*a)))  # noqa: B023
    np.testing.assert_allclose(
      attend(*inputs), jax.nn.dot_product_attention(*inputs), atol=2e-5 * scale
    )
    ours = jax.jit(jax.grad(loss(attend), (0, 1, 2)))(*inputs)
    theirs = jax.jit(jax.grad(loss(jax.nn.dot_product_attention), (0, 1, 2)))(*inputs)
    for a, b in zip(ours, theirs, strict=True):
      np.testing.assert_allclose(a, b, atol=2e-4 * scale)


def test_bfloat16_keeps_its_softmax_in_float32():
  inputs = _inputs(jnp.bfloat16)
  exact = jax.jit(attend)(*(a.astype(jnp.float32) for a in inputs))
  rough = jax.jit(attend)(*inputs)
  assert rough.dtype == jnp.bfloat16
  assert np.abs(exact - rough.astype(jnp.float32)).max() < 0.02
