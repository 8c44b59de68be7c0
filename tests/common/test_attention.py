"""Every implementation of attention gives the numbers of jax.nn.dot_product_attention."""

import dataclasses
import functools
import logging as python_logging

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AbstractDevice, AbstractMesh, NamedSharding
from jax.sharding import PartitionSpec as P

from common import attention
from common.attention import (
  IMPLEMENTATIONS,
  AttentionInputs,
  AttentionSettings,
  attend,
  attend_positions_first,
  choose,
  current_platform,
  reference,
)
from common.config import ConfigError
from common.devices.mesh import AXES
from common.training.parallel import make_mesh

LENGTH = 256
POSITIONS = jnp.arange(LENGTH)
CAUSAL, FULL = AttentionSettings(causal=True), AttentionSettings()


def arrays(length: int = LENGTH, keys: int | None = None):
  """Queries of 2 x 2 heads, keys, values."""
  seeds = jax.random.split(jax.random.key(0), 3)
  query = jax.random.normal(seeds[0], (2, 2, 2, length, 8))
  return query, *(jax.random.normal(k, (2, 2, keys or length, 8)) for k in seeds[1:])


def inputs_of(documents: bool = False, bias: bool = False, lengths: bool = False):
  segments = slopes = None
  if documents:
    segments = jnp.stack([POSITIONS // 100, POSITIONS // 64])
  if bias:
    distance = (POSITIONS[None] - POSITIONS[:, None]).astype(jnp.float32)
    slopes = jnp.array([0.5, 0.25, 0.125, 0.1])[:, None, None] * distance
  number = jnp.array([130, LENGTH]) if lengths else None
  return AttentionInputs(None, slopes, segments, segments, number)


def theirs(query, key, value, **settings):
  """JAX's own attention, which takes positions before heads."""
  batch, kv_heads, groups, length, dim = query.shape
  query = query.reshape(batch, kv_heads * groups, length, dim)
  return jax.nn.dot_product_attention(
    *(x.swapaxes(1, 2) for x in (query, key, value)), **settings
  ).swapaxes(1, 2)


def test_the_reference_equals_attention_of_jax():
  query, key, value = arrays(7)
  settings = AttentionSettings(causal=True, window=4)
  ours = jax.jit(functools.partial(reference, settings=settings))(
    query, key, value, AttentionInputs()
  )
  expected = jax.jit(functools.partial(theirs, is_causal=True, local_window_size=(3, 0)))(
    query, key, value
  )
  np.testing.assert_allclose(ours.reshape(expected.shape), expected, atol=1e-6)


def test_grouped_queries_equal_tiled_keys():
  """Grouped heads are multi-head attention whose keys and values are repeated by group."""
  query, key, value = arrays(7)
  grouped = jax.jit(functools.partial(reference, settings=CAUSAL))(
    query, key, value, AttentionInputs()
  )
  tiled = reference(
    query.reshape(2, 4, 1, 7, 8), key.repeat(2, 1), value.repeat(2, 1), AttentionInputs(), CAUSAL
  )
  np.testing.assert_allclose(grouped.reshape(tiled.shape), tiled, atol=1e-6)
  alone = reference(
    query.reshape(2, 4, 7, 8), key.repeat(2, 1), value.repeat(2, 1), AttentionInputs(), CAUSAL
  )
  np.testing.assert_allclose(alone, tiled[:, :, 0], atol=1e-6)


def test_an_offset_places_queries_among_the_keys_of_a_cache():
  query, key, value = arrays(7)
  whole = reference(query, key, value, AttentionInputs(), CAUSAL)
  inputs = AttentionInputs(offset=jnp.int32(4))
  part = attend(query[..., 4:6, :], key, value, inputs, CAUSAL)
  np.testing.assert_allclose(part, whole[..., 4:6, :], atol=1e-6)


CAUSAL_CASES = {  # what each implementation supports besides a causal mask
  'blocks': [dict(), dict(window=70), dict(documents=True, cap=5.0), dict(bias=True)],
  'cudnn': [dict(window=70), dict(bias=True), dict(documents=True)],
  'splash': [dict(), dict(window=70, cap=5.0), dict(documents=True)],
}
CASES = [(name, True, case) for name, cases in CAUSAL_CASES.items() for case in cases]
CASES += [(name, False, dict(lengths=True)) for name in CAUSAL_CASES]
CASES += [('cudnn', True, dict(window=70, bias=True)), ('splash', False, dict(documents=True))]


def compiled(name):
  """An implementation in a form that runs here: for cudnn, XLA runs the same call."""
  if name == 'cudnn':
    return functools.partial(attention.cudnn, implementation='xla')
  return IMPLEMENTATIONS[name]


@pytest.mark.parametrize(('name', 'causal', 'case'), CASES)
def test_implementations_and_their_gradients_equal_the_reference(name, causal, case):
  """Splash attention is interpreted here, as on any platform without TPUs."""
  inputs = inputs_of(**{k: v for k, v in case.items() if k not in ('cap', 'window')})
  settings = AttentionSettings('auto', causal, case.get('window', 0), case.get('cap', 0.0))
  query, key, value = arrays()

  def total(implementation, *qkv):
    mixed = implementation(*qkv, inputs, settings)
    return (mixed * jnp.cos(jnp.arange(mixed.size).reshape(mixed.shape))).sum(), mixed

  def both(implementation):
    return jax.jit(jax.grad(functools.partial(total, implementation), (0, 1, 2), has_aux=True))(
      query, key, value
    )

  for ours, expected in zip(
    jax.tree.leaves(both(compiled(name))), jax.tree.leaves(both(reference)), strict=True
  ):
    np.testing.assert_allclose(ours, expected, atol=3e-5)


@pytest.mark.parametrize('name', IMPLEMENTATIONS)
def test_cross_attention_has_its_own_number_of_keys(name):
  query, key, value = arrays(LENGTH, keys=128)
  ours = compiled(name)(query, key, value, AttentionInputs(), FULL)
  expected = theirs(query, key, value)
  np.testing.assert_allclose(ours.reshape(expected.shape), expected, atol=3e-5)


def test_keys_beyond_the_length_of_an_example_are_not_seen():
  query, key, value = arrays(7, keys=5)
  inputs = AttentionInputs(key_lengths=jnp.array([3, 5]))
  ours = attend(query, key, value, inputs)
  changed = attend(query, key.at[0, :, 3:].set(9.0), value.at[0, :, 3:].set(9.0), inputs)
  np.testing.assert_array_equal(ours, changed)
  np.testing.assert_allclose(ours[1:], attend(query[1:], key[1:], value[1:]), atol=1e-6)


def positions_first(dtype=jnp.float32, scale=1.0):
  seeds = jax.random.split(jax.random.key(0), 3)
  shapes = [(2, 7, 3, 8), (2, 9, 3, 8), (2, 9, 3, 8)]
  return [scale * jax.random.normal(k, s, dtype) for k, s in zip(seeds, shapes, strict=True)]


@pytest.mark.parametrize('scale', [1.0, 30.0])
def test_equals_jax_forward_and_backward(scale):
  """At scale 30, scores are in the thousands: without the shift, exp would overflow."""
  qkv = positions_first(scale=scale)

  def loss(implementation, *qkv):
    return jnp.sum(jnp.sin(implementation(*qkv)))

  def gradient(implementation):
    return jax.jit(jax.grad(functools.partial(loss, implementation), (0, 1, 2)))(*qkv)

  np.testing.assert_allclose(
    attend_positions_first(*qkv), jax.nn.dot_product_attention(*qkv), atol=2e-5 * scale
  )
  expected = gradient(jax.nn.dot_product_attention)
  for a, b in zip(gradient(attend_positions_first), expected, strict=True):
    np.testing.assert_allclose(a, b, atol=2e-4 * scale)


@pytest.mark.parametrize(('dtype', 'tolerance'), [(jnp.bfloat16, 0.02), (jnp.float16, 0.003)])
def test_16_bits_keep_their_softmax_in_float32(dtype, tolerance):
  qkv = positions_first(dtype)
  exact = jax.jit(attend_positions_first)(*(a.astype(jnp.float32) for a in qkv))
  rough = jax.jit(attend_positions_first)(*qkv)
  assert rough.dtype == dtype
  assert np.abs(exact - rough.astype(jnp.float32)).max() < tolerance


def test_masks_and_biases_of_float16_arrays_are_those_of_float32():
  qkv = [a.astype(jnp.float16) for a in arrays()]
  run = jax.jit(lambda *qkv: reference(*qkv, inputs_of(True, True, True), CAUSAL))
  exact, rough = run(*(a.astype(jnp.float32) for a in qkv)), run(*qkv)
  assert rough.dtype == jnp.float16
  assert np.abs(exact - rough.astype(jnp.float32)).max() < 0.003


def test_splash_attention_on_a_mesh():
  mesh = make_mesh(dict(data=2, fsdp=2, tensor=2))
  query, key, value = (jnp.concatenate([x, x[::-1]]) for x in arrays())
  segments = jnp.tile(inputs_of(documents=True).query_segments, (2, 1))
  inputs = AttentionInputs(query_segments=segments, key_segments=segments)

  @jax.jit
  def on_mesh(*qkv):
    with jax.sharding.use_abstract_mesh(mesh.abstract_mesh):
      return attention.splash(*qkv, inputs, CAUSAL)

  split = NamedSharding(mesh, P(('data', 'fsdp'), 'tensor'))
  ours = on_mesh(*(jax.device_put(x, split) for x in (query, key, value)))
  assert ours.sharding.is_equivalent_to(split, ours.ndim)
  np.testing.assert_allclose(ours, reference(query, key, value, inputs, CAUSAL), atol=3e-5)


def shapes(length=128, dim=64, dtype='bfloat16', batch=8):
  """(query, key) of four heads, as shapes."""
  shape = (batch, 4, length, dim)
  return tuple(jax.ShapeDtypeStruct(shape, dtype) for _ in range(2))


def mesh_of(platform, **sizes):
  """A mesh of devices that this machine need not have."""
  device = AbstractDevice(device_kind='some device', num_cores=1, platform=platform)
  sizes = dict.fromkeys(AXES, 1) | sizes
  return AbstractMesh(tuple(sizes.values()), AXES, abstract_device=device)


def chosen(platform, name='auto', shape=None, inputs=None, drop=None, **settings):
  settings = AttentionSettings(name, **dict(causal=True) | settings)
  with jax.sharding.use_abstract_mesh(mesh_of(platform)):
    return choose(*(shape or shapes()), inputs or AttentionInputs(), settings, drop, platform)


BIAS = AttentionInputs(bias=jnp.zeros((4, 128, 128)))


def test_auto_takes_the_kernel_of_the_platform():
  assert chosen('tpu') == 'splash'
  assert chosen('gpu') == chosen('gpu', shape=shapes(dtype='float16')) == 'cudnn'
  assert chosen('cpu') == 'blocks'
  assert chosen('cpu', causal=False) == 'reference'
  assert chosen('tpu', inputs=AttentionInputs(offset=jnp.int32(3))) == 'reference'


@pytest.mark.parametrize(
  ('platform', 'asked', 'message'),
  [
    (
      'tpu',
      dict(shape=shapes(100)),
      r'does not support lengths \(100, 100\) \(only multiples',
    ),
    ('tpu', dict(inputs=BIAS, drop=jnp.abs), r'a bias \(ALiBi\) or dropout'),
    ('tpu', dict(shape=shapes(dtype='float16')), 'does not support float16 arrays'),
    ('gpu', dict(cap=1.0), "'cudnn' does not support a soft cap"),
    ('gpu', dict(drop=jnp.abs), 'dropout of attention weights'),
    ('gpu', dict(shape=shapes(dtype='float32')), r'float32 arrays \(only bfloat16 and float16\)'),
    ('gpu', dict(shape=shapes(dim=20)), 'heads of 20 dimensions'),
    ('gpu', dict(shape=shapes(dim=256)), 'heads of 256 dimensions'),
    ('gpu', dict(shape=shapes(101), inputs=BIAS), r'lengths \(101, 101\) \(only even ones\)'),
    ('gpu', dict(window=4, inputs=BIAS), 'a window with a bias'),
  ],
)
def test_a_kernel_refuses_unsupported_arguments_and_auto_falls_back(platform, asked, message):
  name = attention.KERNELS[platform]
  with pytest.raises(ConfigError, match=message) as error:
    chosen(platform, name, **asked)
  assert str(error.value).endswith("use 'auto', 'blocks' or 'reference'")
  assert chosen(platform, **asked) == 'blocks'


def test_cudnn_is_refused_on_other_platforms():
  with pytest.raises(ConfigError, match=r"the platform 'cpu' \(only GPUs\)"):
    chosen('cpu', 'cudnn')


def test_splash_needs_a_mesh_over_which_the_batch_divides(monkeypatch):
  query, key = shapes(batch=6)
  with jax.sharding.use_abstract_mesh(mesh_of('tpu', data=4)):
    assert choose(query, key, AttentionInputs(), CAUSAL, None, 'tpu') == 'blocks'
  # Eight devices and no mesh, then one device.
  assert choose(query, key, AttentionInputs(), CAUSAL, None, 'tpu') == 'blocks'
  monkeypatch.setattr(jax, 'device_count', lambda: 1)
  assert choose(query, key, AttentionInputs(), CAUSAL, None, 'tpu') == 'splash'


def test_the_platform_comes_from_the_mesh():
  assert current_platform() == jax.default_backend() == 'cpu'
  for platform in ('gpu', 'tpu', 'cpu'):
    with jax.sharding.use_abstract_mesh(mesh_of(platform)):
      assert current_platform() == platform
  with jax.sharding.use_abstract_mesh(make_mesh(dict(data=8, fsdp=1, tensor=1)).abstract_mesh):
    assert current_platform() == 'cpu'


def test_one_function_is_lowered_differently_for_each_platform():
  """Lowered, not compiled: this machine has neither a TPU nor its compiler."""
  qkv = [jax.ShapeDtypeStruct((2, 4, 128, 64), 'bfloat16')] * 3
  run = jax.jit(functools.partial(attend, inputs=AttentionInputs(), settings=CAUSAL))

  def text(platform):
    with jax.sharding.use_abstract_mesh(mesh_of(platform)):
      return run.trace(*qkv).lower(lowering_platforms=(platform,)).as_text()

  assert 'tpu_custom_call' in text('tpu')
  assert 'custom_call' not in text('cpu')


def test_cudnn_gets_a_causal_window_without_a_mask(monkeypatch):
  """Traced for an absent GPU: the test replaces only the check of cuDNN's version."""
  stablehlo = pytest.importorskip('jax._src.cudnn.fused_attention_stablehlo')
  monkeypatch.setattr(stablehlo, 'check_cudnn_version', lambda: 91000)
  qkv = [jax.ShapeDtypeStruct((2, 4, 128, 64), 'bfloat16')] * 3
  settings = dataclasses.replace(CAUSAL, window=32)
  with jax.sharding.use_abstract_mesh(mesh_of('gpu')):
    run = jax.jit(functools.partial(attend, inputs=AttentionInputs(), settings=settings))
    text = str(run.trace(*qkv).jaxpr)
  assert 'mask_type=MaskType.CAUSAL' in text and 'sliding_window_length=32' in text
  assert '128,128' not in text


def test_auto_logs_each_reason_once(caplog):
  attention._log_once.cache_clear()
  with caplog.at_level(python_logging.INFO, logger='absl'):
    for _ in range(3):
      chosen('gpu', cap=1.0)
  assert [r.getMessage() for r in caplog.records] == [
    "attention: 'cudnn' does not support a soft cap; using 'blocks' instead"
  ]


def test_invalid_settings_are_refused():
  with pytest.raises(ConfigError, match=r"network\.attention 'flash'; did you mean 'splash'"):
    AttentionSettings('flash')
  with pytest.raises(ConfigError, match='attention with window=4 must be causal'):
    AttentionSettings(window=4)
