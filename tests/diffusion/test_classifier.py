"""A classifier of noisy data, trained apart: its loss, its accuracy, and guidance by it."""

import dataclasses
import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import diffusion
from common.config import ConfigError
from common.method import Request
from diffusion import classifier_method
from diffusion.networks.base import DiffusionNetwork
from experiments import families
from tests.diffusion import small
from tests.diffusion.small import KEY, SPEC, batch, context

PROCESS = dict(name='edm')
REQUEST = Request(4, jnp.arange(4) % 3, options={'steps': 4, 'classifier': 4.0})


def build(spec=SPEC, **changes):
  config = families.defaults('classifier')
  config['network'] = dict(name='mlp', width=16, depth=1)
  config['process'] = PROCESS
  for path, value in changes.items():
    *sections, leaf = path.split('__')
    functools.reduce(lambda node, name: node[name], sections, config)[leaf] = value
  return classifier_method.build(config, spec)


def random_params(method, scale=0.3):
  params, _ = method.init(KEY, batch())
  leaves, tree = jax.tree.flatten(params)
  keys = jax.random.split(KEY, len(leaves))
  noisy = [v + scale * jax.random.normal(k, v.shape) for v, k in zip(leaves, keys, strict=True)]
  return jax.tree.unflatten(tree, noisy)


class Linear(DiffusionNetwork):
  """Logits w_k·x, as those of Gaussians of equal variance."""

  @nn.compact
  def __call__(self, x, noise, label=None, train=False):
    del noise, label, train
    logits = nn.Dense(3, use_bias=False)(x.reshape(len(x), -1))
    return logits[:, None, None]


def test_the_loss_before_training_is_the_entropy_of_the_classes():
  method = build()
  params, memory = method.init(KEY, batch())
  value, aux = method.loss(params, memory, batch(), KEY, context(params))
  assert float(value) == pytest.approx(np.log(3), rel=1e-5) and float(aux.count) == 16


def test_the_loss_is_the_same_for_a_batch_in_parts():
  method = build(objective__times=dict(name='uniform'))
  params, memory = random_params(method), ()
  whole, _ = method.loss(params, memory, batch(), KEY, context(params))
  parts = []
  for rows in (slice(0, 8), slice(8, 16)):
    part = {name: x[rows] for name, x in batch().items()}
    index = jnp.arange(16)[rows]
    parts.append(method.loss(params, memory, part, KEY, context(params, index))[0])
  assert float(whole) == pytest.approx(float(np.mean(parts)), rel=1e-5)


def test_accuracy_is_certain_without_noise_and_by_chance_in_noise_alone():
  """Each class is one image, and the logits are their products with x."""
  images = np.eye(3, 16).reshape(3, 4, 4, 1).astype(np.uint8) * 4
  data = {'x': jnp.asarray(np.tile(images, (100, 1, 1, 1))), 'label': jnp.arange(300) % 3}
  method = build(prediction__scale_input=False)
  method = dataclasses.replace(
    method, classifier=dataclasses.replace(method.classifier, network=Linear())
  )
  params = {'network': {'Dense_0': {'kernel': jnp.eye(16, 3)}}}
  found = jax.jit(method.hits)(params, data)
  assert method.noise_levels == (0.1, 0.3, 1.0, 3.0, 10.0)
  assert found.right.shape == found.total.shape == (300, 5)
  share = np.asarray(found.right).mean(0)
  assert share[0] == 1.0 and (np.diff(share) <= 0).all() and 0.3 < share[-1] < 0.6


def test_levels_that_the_process_has_not_are_left_out():
  assert build(process=PROCESS | dict(sigma_max=5.0)).noise_levels == (0.1, 0.3, 1.0, 3.0)
  assert build(process=PROCESS | dict(sigma_min=0.2)).noise_levels == (0.3, 1.0, 3.0, 10.0)


def guided(classifier):
  config = small_config()
  return diffusion.build(config, SPEC, classifier=classifier)


def small_config():
  config = families.defaults('diffusion')
  config['network'] = dict(name='mlp', width=16, depth=1)
  return config | {'process': PROCESS, 'conditional': False}


def test_samples_are_guided_by_the_parameters_of_the_other_run():
  other = build()
  method, plain = guided(other.classifier), diffusion.build(small_config(), SPEC)
  own = small.random_init(plain)[0]
  unguided = plain.sample(own, KEY, Request(4, options={'steps': 4})).x
  untrained = other.init(KEY, batch())[0]['network']  # the same logits for every x: no gradient
  params = own | {'classifier': untrained}
  np.testing.assert_array_equal(method.sample(params, KEY, REQUEST).x, unguided)
  params = own | {'classifier': random_params(other)['network']}
  assert (method.sample(params, KEY, REQUEST).x != unguided).any()


def test_it_cannot_sample_and_has_no_likelihood():
  method = build()
  with pytest.raises(ConfigError, match='a classifier draws no samples: it guides those of'):
    method.check_request(None, Request(1))
  with pytest.raises(ConfigError, match='has no likelihood of data'):
    method.nll({}, batch(), KEY)
  with pytest.raises(ConfigError, match='option steps: a classifier draws no samples'):
    families.FAMILIES['classifier'].with_options({}, {'steps': 5})


@pytest.mark.parametrize(
  ('changes', 'spec', 'message'),
  [
    ({}, dataclasses.replace(SPEC, num_classes=0), 'two classes or more, .* toy with 0 classes'),
    ({'process': dict(name='learned')}, SPEC, "'learned' is trained by the likelihood"),
    ({'prediction__noise': 'sigma'}, SPEC, "unknown prediction.noise 'sigma'"),
  ],
)
def test_what_cannot_be_classified_is_refused(changes, spec, message):
  with pytest.raises(ConfigError, match=message):
    build(spec, **changes)
