"""What only a GPU can show: `pytest -m gpu`. Elsewhere each test is skipped with a reason."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from common import attention
from common.attention import AttentionInputs, AttentionSettings, attend, reference
from common.checkpoints import records
from common.config import merge
from common.data.spec import DataSpec
from common.method import Request
from experiments import families, runs
from experiments.benchmarks.race import perturbed_params
from tests.test_precision import CASES, HALVES

pytestmark = pytest.mark.gpu
LENGTH = 256
IMAGES = DataSpec('images', 'image', (8, 8, 1), 256, num_train=64)


@pytest.fixture(autouse=True)
def _needs_a_gpu():
  if jax.default_backend() != 'gpu':
    pytest.skip(f'needs a GPU, and JAX runs on {jax.devices()[0].device_kind}')


ATTENTION = {
  'bidirectional': (AttentionSettings('cudnn'), {}),
  'causal': (AttentionSettings('cudnn', causal=True), {}),
  'a window': (AttentionSettings('cudnn', causal=True, window=70), {}),
  'padding': (AttentionSettings('cudnn'), {'lengths': True}),
  'documents': (AttentionSettings('cudnn', causal=True), {'documents': True}),
  'a bias': (AttentionSettings('cudnn', causal=True), {'bias': True}),
}


def inputs_of(documents=False, bias=False, lengths=False):
  """Arrays for the attention of two examples with four heads."""
  positions = jnp.arange(LENGTH)
  segments = jnp.stack([positions // 100, positions // 64]) if documents else None
  distance = (positions[None] - positions[:, None]).astype(jnp.float32)
  slopes = jnp.array([0.5, 0.25, 0.125, 0.1])[:, None, None] * distance if bias else None
  number = jnp.array([130, LENGTH], jnp.int32) if lengths else None
  return AttentionInputs(None, slopes, segments, segments, number)


def mixed_and_gradients(implementation, arrays):
  """The outputs, and the gradients for queries, keys and values, in float32."""

  def total(*arrays):
    mixed = implementation(*arrays).astype(jnp.float32)
    return (mixed * jnp.cos(jnp.arange(mixed.size)).reshape(mixed.shape)).sum(), mixed

  gradients, mixed = jax.jit(jax.grad(total, (0, 1, 2), has_aux=True))(*arrays)
  return [np.asarray(each, np.float32) for each in (mixed, *gradients)]


@pytest.mark.parametrize('dtype', HALVES)
@pytest.mark.parametrize('dim', [64, 128])
@pytest.mark.parametrize('name', ATTENTION)
def test_cudnn_and_its_gradients_are_the_reference_in_16_bits(name, dim, dtype):
  settings, given = ATTENTION[name]
  inputs, keys = inputs_of(**given), jax.random.split(jax.random.key(0), 3)
  # Two key heads, each shared by two query heads.
  shapes = (2, 2, 2, LENGTH, dim), (2, 2, LENGTH, dim), (2, 2, LENGTH, dim)
  arrays = [jax.random.normal(k, s, dtype) for k, s in zip(keys, shapes, strict=True)]
  assert attention.choose(*arrays[:2], inputs, settings, None, 'gpu') == 'cudnn'
  kernel = functools.partial(attend, inputs=inputs, settings=settings)
  plain = functools.partial(reference, inputs=inputs, settings=settings)
  # The same rounded numbers, with every product in full float32.
  with jax.default_matmul_precision('highest'):
    expected = mixed_and_gradients(plain, [x.astype(jnp.float32) for x in arrays])
  for ours, theirs in zip(mixed_and_gradients(kernel, arrays), expected, strict=True):
    error = np.sqrt(np.mean((ours - theirs) ** 2) / np.mean(theirs**2))
    assert error < 0.02  # bfloat16 rounds by at most 0.004, several times on the way


@pytest.mark.parametrize('precision', HALVES)
@pytest.mark.parametrize('name', CASES)
def test_the_gradient_of_every_network_is_finite_in_16_bits(name, precision):
  run, params = CASES[name](precision)
  loss, gradient = jax.jit(jax.value_and_grad(lambda p: jnp.square(run(p)).mean()))(params)
  assert jnp.isfinite(loss)
  for leaf in jax.tree.leaves(gradient):
    assert leaf.dtype == jnp.float32 and jnp.isfinite(leaf).all()
  assert any(jnp.any(leaf != 0) for leaf in jax.tree.leaves(gradient))


RUNS = {
  'diffusion': ('diffusion/images:digits', {'network.width': 32, 'network.depth': 2}),
  'autoregressive': ('autoregressive/images:digits_4x4', {'network.width': 32}),
}
SHORT = {
  'precision': 'bfloat16',
  'data.batch_size': 16,
  'network.heads': 2,
  'train.steps': '24',
  'train.steps_per_call': 4,
  'train.checkpoint_every': '8',
  'train.evaluate_every': '0',
  'train.sample_every': '0',
}


def last_leaves(workdir):
  """Shape, type and digest of every number of the last checkpoint."""
  return records.read_record(workdir / 'checkpoints' / SHORT['train.steps'], 24)['leaves']


@pytest.mark.parametrize('family', RUNS)
def test_a_resumed_run_ends_with_the_numbers_of_an_uninterrupted_one(family, tmp_path):
  config = families.load_config(RUNS[family][0], RUNS[family][1] | SHORT)
  assert runs.train(config, tmp_path / 'whole')
  calls = iter(range(100))
  assert not runs.train(config, tmp_path / 'parts', stop=lambda: next(calls) == 2)
  assert runs.train(config, tmp_path / 'parts')
  assert last_leaves(tmp_path / 'parts') == last_leaves(tmp_path / 'whole')


SAMPLED = {
  'ddim': {'sampler': {'name': 'ddim'}, 'steps': 8},
  'heun': {'sampler': {'name': 'heun'}, 'steps': 8},
  'decoding': {},
}


@pytest.mark.parametrize('name', SAMPLED)
def test_samples_are_those_of_the_cpu(name):
  """In float32 with full products; only sums are in another order."""
  family = 'autoregressive' if name == 'decoding' else 'diffusion'
  config = merge(families.load_config(*RUNS[family]), {'sampling': SAMPLED[name]})
  config = families.complete(config, strict=True)
  method = families.build(config, IMAGES)
  params = jax.device_get(perturbed_params(method, IMAGES))
  samples = []
  for device in (jax.devices('gpu')[0], jax.devices('cpu')[0]):
    with jax.default_device(device), jax.default_matmul_precision('highest'):
      placed = jax.device_put(params, device)
      samples.append(method.sample(placed, jax.random.key(3), Request(16)).x)
  gpu, cpu = (np.asarray(x, np.int32) for x in samples)
  # A value at the border of two levels may round to either; a token of decoding would change those
  # after it, in its own sample only.
  if name == 'decoding':
    assert (gpu == cpu).all((1, 2, 3)).mean() > 0.8
  else:
    assert np.abs(gpu - cpu).max() <= 1 and (gpu == cpu).mean() > 0.99
