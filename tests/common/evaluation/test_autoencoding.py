"""Reconstructions, and the likelihood of images by their codes, against the autoencoder itself."""

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from common.baselines.vae.first_stage import VAEStage
from common.baselines.vae.sampling import RequestSampler
from common.config import ConfigError
from common.data.pipeline import Data
from common.data.sources import GivenSource
from common.data.spec import latent_spec
from common.evaluation.autoencoding import NO_RECONSTRUCTIONS
from common.evaluation.evaluate import evaluate
from common.method import Likelihood, Method
from tests.cases import evaluation_settings
from tests.common.baselines.vae.toy import SPEC, batch, built

SETTINGS = evaluation_settings(batch_size=16, num_samples=24, extractor='pixels')
METRICS = ['bits_per_dim', 'reconstruction']
SIZES = {'train': 96, 'test': 40}


class Uniform(Method):
  """Every code is as probable as any other: the prior of a VQ-VAE."""

  def nll(self, params, batch, key):
    num, *shape = batch['x'].shape
    nats = math.prod(shape) * math.log(params['codes'].shape[0])
    return Likelihood(jnp.full(num, nats), jnp.zeros(num))


UNIFORM = Uniform()
PARAMS = {'codes': jnp.zeros(128)}


def images():
  splits = {name: batch(seed, num) for seed, (name, num) in enumerate(SIZES.items())}
  return Data(SPEC, {name: GivenSource(jax.tree.map(np.asarray, x)) for name, x in splits.items()})


def stage(kind):
  method, params = built(kind)
  return VAEStage(kind, 'digest', method.model, params)


def latents_of(data, stage):
  encoded = {
    name: GivenSource({'x': stage.encode(source.arrays['x']), 'label': source.arrays['label']})
    for name, source in data.splits.items()
  }
  return Data(latent_spec(data.spec, stage), encoded, images=data)


def measure(method, params, data, metrics=METRICS):
  return evaluate(method, params, data, SETTINGS, jax.random.key(0), metrics).measures


@pytest.mark.parametrize('kind', ['codes', pytest.param('gaussian', marks=pytest.mark.slow)])
def test_an_autoencoder_and_a_model_of_its_latents_have_the_same_reconstructions(kind):
  data = images()
  own = measure(*built(kind), data)['reconstruction']
  other = measure(UNIFORM, PARAMS, latents_of(data, stage(kind)))['reconstruction']
  assert own.value == pytest.approx(other.value, rel=1e-5) and own.note == other.note
  assert own.value > 0 and 'of the images themselves ' in own.note


def test_images_under_uniform_codes_have_the_bound_of_the_vq_vae():
  data = images()
  own = measure(*built('codes'), data)['bits_per_dim']
  latents = latents_of(data, stage('codes'))
  other = measure(UNIFORM, PARAMS, latents)['bits_per_dim']
  assert other.value == pytest.approx(own.value, rel=1e-5)
  # One standard error for codes and pixels together: they belong to the same images.
  assert other.standard_error == pytest.approx(own.standard_error, rel=1e-4)
  num, dims = math.prod(latents.spec.shape), SPEC.num_dims
  assert f'{num * 7 / dims:.3g} of codes, ' in other.note  # log₂ 128
  assert 'upper bound for images by their one code' in other.note


def test_without_a_distribution_of_pixels_the_bits_are_those_of_codes():
  published = dataclasses.replace(stage('codes'), distribution=False)
  found = measure(UNIFORM, PARAMS, latents_of(images(), published))['bits_per_dim']
  assert found.value == pytest.approx(7.0) and 'of latents, not of what they encode' in found.note


def test_probabilities_of_codes_and_densities_of_images_do_not_add_up():
  data = latents_of(images(), stage('codes'))
  latents = dataclasses.replace(data.spec.latents, images=dataclasses.replace(SPEC, levels=0))
  numbers = data._replace(spec=dataclasses.replace(data.spec, latents=latents))
  found = measure(UNIFORM, PARAMS, numbers, ['bits_per_dim'])['bits_per_dim']
  assert found.value == pytest.approx(7.0) and 'of latents' in found.note


def test_reconstructions_do_not_depend_on_how_the_model_samples():
  method, params = built('gaussian')
  defaults = method.sampling.defaults | {'pixels': 'draw'}
  drawing = dataclasses.replace(method, sampling=RequestSampler(method.model, defaults))
  one, other = (measure(m, params, images(), ['reconstruction']) for m in (method, drawing))
  assert one['reconstruction'].value == other['reconstruction'].value


def test_a_distance_needs_two_images():
  data = images()
  few = GivenSource({name: x[:1] for name, x in data.splits['test'].arrays.items()})
  alone = data._replace(splits=data.splits | {'test': few})
  found = measure(UNIFORM, PARAMS, latents_of(alone, stage('codes')), ['reconstruction'])
  assert found['reconstruction'][0] is None
  assert found['reconstruction'].note == 'needs at least 2 images of each split'


def test_a_model_without_an_encoder_has_no_reconstructions():
  found = measure(UNIFORM, PARAMS, images())['reconstruction']
  assert found.value is None and found.note == NO_RECONSTRUCTIONS


def test_a_distance_of_one_reconstruction_is_refused():
  settings = SETTINGS | dict(num_samples=1)
  with pytest.raises(ConfigError, match='at least 2 samples'):
    evaluate(UNIFORM, PARAMS, images(), settings, jax.random.key(0), ['reconstruction'])
