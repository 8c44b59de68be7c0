"""Rules for both networks, and equal training on one device and on a mesh of eight."""

import functools
import math

import jax
import numpy as np
import pytest
from jax.sharding import AbstractMesh

from common.config import ConfigError, merge
from common.data.spec import DataSpec
from common.devices.mesh import AXES
from common.training import sharding
from common.training.parallel import make_mesh
from common.training.program import build_program
from common.training.sharding import LARGE, check_placement, leaf_spec
from experiments import families
from tests.autoregressive.common import perturbed
from tests.cases import mostly_slow
from tests.common.baselines.gan.small import NETWORKS, NUM, SPEC, batch, config

IMAGES = DataSpec('images', 'image', (16, 16, 3), 256, 10)


@functools.cache
def shapes_of(name, width=128):
  """Shapes of the parameters of both networks, of 128 channels or more."""
  wide = dict(generator=dict(width=width, latent=128), discriminator=dict(width=width))
  made = families.build(config(**merge(NETWORKS[name], wide)), IMAGES)
  return jax.eval_shape(made.init, jax.random.key(0), IMAGES.batch_struct(1))[0]


def mesh(data=1, fsdp=1, tensor=1):
  return AbstractMesh((data, fsdp, tensor), AXES)


@pytest.mark.parametrize('name', NETWORKS)
def test_every_network_has_rules_for_both_axes(name):
  params, devices = shapes_of(name), mesh(fsdp=2, tensor=2)
  check_placement(params, devices)
  specs = jax.tree.map(lambda s: str(s.spec), sharding.shardings(params, devices))
  pairs = list(zip(jax.tree.leaves(params), jax.tree.leaves(specs), strict=True))
  for axis in ('fsdp', 'tensor'):
    assert sum(leaf.size >= LARGE for leaf, _ in pairs) >= 2
    whole = sum(leaf.size for leaf, spec in pairs if axis not in spec)
    assert whole < 0.1 * sum(leaf.size for leaf, _ in pairs), axis


def test_a_width_that_tensor_does_not_divide_is_named():
  with pytest.raises(ConfigError, match=r'make generator\.width and discriminator\.width a multip'):
    check_placement(shapes_of('resnet', 101), mesh(tensor=8))


def test_the_moments_are_split_like_their_parameters():
  path, shape = 'generator/block_1/conv1/kernel', (3, 3, 64, 64)
  inside = f'0/inner_states/generator/inner_state/0/mu/{path}'
  assert leaf_spec(path, shape, mesh(tensor=2)) == leaf_spec(inside, shape, mesh(tensor=2))


def train(name, **axes):
  """(losses, state, step) after two steps of gradient descent with spectral norm and R1."""
  settings = config(name, objective=dict(r1=0.5), train=dict(micro_batches=2))
  settings['discriminator']['spectral_norm'] = True
  settings['optimizer'] |= dict(warmup='0', clip=0.0, schedule='constant', name='sgd')
  settings['optimizer'] |= dict(learning_rate=0.02, momentum=0.5)
  where = dict(data=1, fsdp=1, tensor=1) | axes
  devices = make_mesh(where, jax.devices()[: math.prod(where.values())])
  program = build_program(settings, families.build(settings, SPEC), SPEC, devices)
  initial = jax.device_get(jax.jit(program.init)())
  initial = initial._replace(params=perturbed(initial.params, 0.1))
  stack = [jax.tree.map(np.asarray, batch(seed, NUM)) for seed in range(2)]
  batches = {k: np.stack([each[k] for each in stack]) for k in stack[0]}
  step = program.step
  final, metrics = step.run(step.put_state(initial), step.put_batches(batches))
  return metrics['loss'], jax.device_get(final), step


@pytest.mark.parametrize('name', mostly_slow(NETWORKS, ['mlp']))
def test_training_is_the_same_on_one_device_and_on_a_mesh(name, monkeypatch):
  """Small leaves too are split, and none may be whole on a device."""
  monkeypatch.setattr(sharding, 'FSDP_MIN_SIZE', 128)
  one_loss, one, _ = train(name)
  loss, other, step = train(name, data=2, fsdp=2, tensor=2)
  specs = [str(s.spec) for s in jax.tree.leaves(step.state_shardings.params)]
  assert sum('tensor' in spec for spec in specs) >= 4
  np.testing.assert_allclose(loss, one_loss, rtol=1e-4)
  for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True):
    np.testing.assert_allclose(b, a, rtol=1e-3, atol=1e-4)
