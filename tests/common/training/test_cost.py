"""The cost of training: parameters, steps, and operations of the loss and its gradient."""

import dataclasses

import jax
import jax.numpy as jnp
import pytest

from common.data import pipeline
from common.method import Aux
from common.training.program import training_cost
from configs.base import get_base
from experiments import families
from tests import toy

BATCH, WIDTH = 16, 32
FAMILIES = {
  'diffusion': 'configs/diffusion/images.py:digits',
  'autoregressive': 'configs/autoregressive/images.py:digits_4x4',
}


def toy_cost(loss, params):
  """The cost of 8 steps with a loss (params, x) of the toy data, whose products are counted."""
  config = get_base().to_dict()
  config['data']['batch_size'], config['train']['steps'] = BATCH, '8'

  def init(key, batch):
    return jax.tree.map(jnp.zeros_like, params), {}

  def method_loss(params, memory, batch, key, context):
    x = batch['x'].reshape(BATCH, -1).astype(jnp.float32)
    return loss(params, x), Aux({}, memory, jnp.float32(BATCH))

  method = dataclasses.replace(toy.build(), init=init, loss=method_loss)
  return training_cost(config, method, toy.SPEC)


def two_layers():
  return {'g': jnp.zeros((toy.SPEC.num_dims, WIDTH)), 'd': jnp.zeros((WIDTH, WIDTH))}


ONE, OTHER = 2 * BATCH * toy.SPEC.num_dims * WIDTH, 2 * BATCH * WIDTH * WIDTH  # of a product


def test_inputs_have_no_gradient():
  """The first product has one in the backward pass, for its weights; the second has two."""
  found = toy_cost(lambda p, x: ((x @ p['g']) @ p['d']).sum(), two_layers())
  assert found.flops_per_step == 2 * ONE + 3 * OTHER
  assert found.model_flops_per_step == 3 * (ONE + OTHER)
  assert (found.steps, found.flops) == (8, 8 * found.flops_per_step)
  assert found.parameters == toy.SPEC.num_dims * WIDTH + WIDTH**2


def test_two_players_in_one_loss_cost_what_their_gradients_need():
  """The critic learns from fixed samples, and the generator through a fixed critic."""
  hold = jax.lax.stop_gradient

  def loss(p, x):
    made = x @ p['g']
    return (hold(made) @ p['d']).sum() - (made @ hold(p['d'])).sum()

  found = toy_cost(loss, two_layers())
  # One product makes the samples, and one is the gradient of its weights. The critic judges them
  # twice: once with a gradient of its weights only, once with one of its input only.
  assert found.flops_per_step == 2 * ONE + 2 * 2 * OTHER
  assert found.model_flops_per_step == 3 * (ONE + 2 * OTHER)


def test_a_gradient_inside_the_loss_counts_with_its_own_gradient():
  """R1: the squared norm of the slope W₁ σ'(x W₁) W₂ of the critic in its input."""

  def critic(p, x):
    return (jnp.tanh(x @ p['g']) @ p['d']).sum()

  found = toy_cost(lambda p, x: (jax.grad(critic, 1)(p, x) ** 2).sum(), two_layers())
  # Forward: x W₁, its slope through W₁ and through W₂ (the value itself, x W₁ W₂, is traced too).
  assert found.model_flops_per_step == 3 * (2 * ONE + 2 * OTHER)
  assert 2 * (2 * ONE + OTHER) < found.flops_per_step <= found.model_flops_per_step


@pytest.mark.parametrize('family', FAMILIES)
def test_both_families_cost_three_forward_passes_but_for_gradients_of_inputs(family):
  config = families.load_config(FAMILIES[family], {})
  spec = pipeline.load(config['data']).spec
  found = training_cost(config, families.build(config, spec), spec)
  assert 0.99 < found.flops_per_step / found.model_flops_per_step <= 1.0


def test_products_that_are_computed_again_do_not_count():
  config = families.load_config(FAMILIES['diffusion'], {'network.remat': True})
  spec = pipeline.load(config['data']).spec
  found = training_cost(config, families.build(config, spec), spec)
  assert found.flops_per_step == found.model_flops_per_step
