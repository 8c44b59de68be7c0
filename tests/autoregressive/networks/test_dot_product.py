"""Every way to compute attention gives the numbers of jax.nn.dot_product_attention."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from autoregressive.networks import dot_product
from autoregressive.networks.attention import causal_mask
from autoregressive.networks.dot_product import ATTENTIONS, Options, Sight, choose, whole
from common.config import ConfigError
from common.training.parallel import make_mesh

LENGTH = 256
POSITIONS = jnp.arange(LENGTH)


def inputs(length: int = LENGTH):
  """Queries of 2 x 2 heads, keys, values."""
  keys = jax.random.split(jax.random.key(0), 3)
  query = jax.random.normal(keys[0], (2, 2, 2, length, 8))
  return query, *(jax.random.normal(k, (2, 2, length, 8)) for k in keys[1:])


def sight_of(window: int = 0, documents: bool = False, bias: bool = False) -> Sight:
  mask, segments, slopes = causal_mask(POSITIONS, POSITIONS, window), None, None
  if documents:
    segments = jnp.stack([POSITIONS // 100, POSITIONS // 64])
    mask = mask & (segments[:, :, None] == segments[:, None, :])
  if bias:
    distance = (POSITIONS[None] - POSITIONS[:, None]).astype(jnp.float32)
    slopes = jnp.array([0.5, 0.25, 0.125, 0.1])[:, None, None] * distance
  return Sight(mask, slopes, segments)


def test_whole_equals_attention_of_jax():
  query, key, value = inputs(7)
  mask = causal_mask(jnp.arange(7), jnp.arange(7), window=4)
  ours = jax.jit(whole)(query, key, value, Sight(mask))
  theirs = jax.jit(
    functools.partial(jax.nn.dot_product_attention, is_causal=True, local_window_size=(3, 0))
  )(query.reshape(2, 4, 7, 8).swapaxes(1, 2), key.swapaxes(1, 2), value.swapaxes(1, 2))
  np.testing.assert_allclose(ours.reshape(2, 4, 7, 8).swapaxes(1, 2), theirs, atol=1e-6)


def test_grouped_queries_equal_tiled_keys():
  """Grouped heads are multi-head attention whose keys and values are repeated by group."""
  query, key, value = inputs(7)
  sight = Sight(causal_mask(jnp.arange(7), jnp.arange(7)))
  grouped = jax.jit(whole)(query, key, value, sight)
  tiled = whole(query.reshape(2, 4, 1, 7, 8), key.repeat(2, 1), value.repeat(2, 1), sight)
  np.testing.assert_allclose(grouped.reshape(tiled.shape), tiled, atol=1e-6)


CASES = {  # settings that a way can do beside causality
  'blocks': [dict(), dict(window=70), dict(documents=True, cap=5.0), dict(bias=True)],
  'library': [dict(window=70, bias=True), dict(documents=True)],
  'splash': [dict(), dict(window=70, cap=5.0), dict(documents=True)],
}


@pytest.mark.parametrize(
  ('name', 'case'), [(name, case) for name, cases in CASES.items() for case in cases]
)
def test_other_ways_equal_it_and_so_do_their_gradients(name, case):
  """Splash attention is interpreted here, as on any machine without a TPU."""
  sight = sight_of(**{k: v for k, v in case.items() if k != 'cap'})
  options = Options(case.get('window', 0), case.get('cap', 0.0))
  query, key, value = inputs()

  def total(attend, *arrays):
    mixed = attend(*arrays, sight, options)
    return (mixed * jnp.cos(jnp.arange(mixed.size).reshape(mixed.shape))).sum(), mixed

  def both(attend):
    return jax.jit(jax.grad(functools.partial(total, attend), (0, 1, 2), has_aux=True))(
      query, key, value
    )

  for ours, reference in zip(
    jax.tree.leaves(both(ATTENTIONS[name])), jax.tree.leaves(both(whole)), strict=True
  ):
    np.testing.assert_allclose(ours, reference, atol=3e-5)


def test_splash_attention_on_a_mesh():
  mesh = make_mesh(dict(data=2, fsdp=2, tensor=2))
  query, key, value = (jnp.concatenate([x, x[::-1]]) for x in inputs())
  sight = sight_of(documents=True)
  sight = sight._replace(
    mask=jnp.tile(sight.mask, (2, 1, 1)), segments=jnp.tile(sight.segments, (2, 1))
  )

  @jax.jit
  def on_mesh(*arrays):
    with jax.sharding.use_abstract_mesh(mesh.abstract_mesh):
      return ATTENTIONS['splash'](*arrays, sight, Options())

  split = NamedSharding(mesh, P(('data', 'fsdp'), 'tensor'))
  ours = on_mesh(*(jax.device_put(x, split) for x in (query, key, value)))
  assert ours.sharding.is_equivalent_to(split, ours.ndim)
  np.testing.assert_allclose(ours, whole(query, key, value, sight), atol=3e-5)


def test_what_a_way_cannot_do_is_refused_and_auto_avoids_it(monkeypatch):
  drop = Options(drop=lambda x: x)
  with pytest.raises(ConfigError, match="'splash' cannot do a length of 100, no multiple of 128"):
    choose('splash', 100, False, Options())
  with pytest.raises(ConfigError, match=r'a bias \(ALiBi\) or dropout'):
    choose('splash', 128, True, drop)
  with pytest.raises(ConfigError, match="'library' cannot do a soft cap"):
    choose('library', 100, False, Options(cap=1.0))
  assert choose('auto', 100, True, drop) is dot_product.blocks
  monkeypatch.setattr(jax, 'default_backend', lambda: 'tpu')
  assert choose('auto', 128, False, Options()) is dot_product.blocks  # eight devices, no mesh
  monkeypatch.setattr(jax, 'device_count', lambda: 1)
  assert choose('auto', 128, False, Options()) is dot_product.splash
  assert choose('auto', 100, False, Options()) is dot_product.blocks
