"""A classifier of another run: it is trained, resumed, loaded, and guides samples."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from common.config import ConfigError
from experiments import families, runs
from experiments.startup import datasets, guides
from tests.experiments.commands import ended
from tests.experiments.startup import tiny

SHORT = dict(train__steps=8, train__evaluate_every=8)
SCALED = {'classifier': 4.0}


def trained(family, folder, **changes):
  assert runs.train(tiny.config(family, **SHORT, **changes), folder)
  return folder


@pytest.fixture(scope='module')
def classifier(tmp_path_factory):
  return trained('classifier', tmp_path_factory.mktemp('classifier') / 'run')


@pytest.fixture(scope='module')
def model():
  """A model without classes, at its start."""
  config = tiny.config('diffusion', conditional=False)
  data = datasets.load(config['data'])
  method = families.build(config, data.spec)
  batch = {'x': jnp.zeros((1, *data.spec.shape), jnp.uint8), 'label': jnp.zeros(1, jnp.int32)}
  return runs.Run(config, data, method, method.init(jax.random.key(0), batch)[0], 0)


def test_a_classifier_guides_the_samples_of_another_run(model, classifier):
  guide = guides.load(model, f'{classifier}@8', SCALED)
  assert guide.name == f'{classifier}@8'
  found = guides.guided(model, guide)
  jax.tree.map(np.testing.assert_array_equal, found.params['classifier'], guide.params)
  assert found.params.keys() - model.params.keys() == {'classifier'}
  one = found.sample(num=10, classifier=100.0)
  assert (one != found.sample(num=10, classifier=0.0)).any()
  np.testing.assert_array_equal(found.sample(num=10, classifier=0.0), model.sample(num=10))


@pytest.mark.slow
def test_a_stopped_run_continues_with_the_same_parameters(classifier, tmp_path):
  config = tiny.config('classifier', **SHORT, train__checkpoint_every=2)
  stops = iter([False, True])
  assert not runs.train(config, tmp_path / 'run', stop=lambda: next(stops))
  assert runs.train(config, tmp_path / 'run')
  jax.tree.map(
    np.testing.assert_array_equal,
    runs.load(tmp_path / 'run').params,
    runs.load(classifier).params,
  )


def test_a_classifier_has_an_accuracy_and_no_samples(classifier):
  found = runs.load(classifier).evaluate(['noisy_accuracy', 'agreement']).measures
  assert 0 < found['noisy_accuracy'].value < 1 and 'at σ/α = 0.1' in found['noisy_accuracy'].note
  assert found['agreement'].value is None and 'draws no samples' in found['agreement'].note


def test_a_classifier_that_does_not_fit_is_refused(model, classifier, monkeypatch):
  with pytest.raises(ConfigError, match='no effect without a scale, such as --options=classifier'):
    guides.load(model, str(classifier), {})
  with pytest.raises(ConfigError, match="'last', 'best' or a number, got 'first'"):
    guides.load(model, f'{classifier}@first', SCALED)
  with pytest.raises(ConfigError, match='the autoregressive family has no guidance by a classif'):
    guides.check(tiny.config('autoregressive'), str(classifier), SCALED)
  opened = runs.open_run(classifier)
  toy = opened._replace(data=tiny.data(classes=3))
  monkeypatch.setattr(runs, 'open_run', lambda _: toy)
  with pytest.raises(ConfigError, match=r'got digits \(8, 8, 1\) with 10 classes and toy'):
    guides.load(model, str(classifier), SCALED)
  process = families.build(tiny.config('classifier', process__name='cosine'), toy.data.spec)
  monkeypatch.setattr(runs, 'open_run', lambda _: opened._replace(method=process))
  with pytest.raises(ConfigError, match=r'with the process of the model, EDM\(.*, got'):
    guides.load(model, str(classifier), SCALED)


@pytest.mark.slow
def test_an_evaluation_names_the_classifier(classifier, tmp_path):
  folder = trained('diffusion', tmp_path / 'run', conditional=False)
  flags = ['--metrics=evaluations', '--num_samples=20', '--options=classifier=2.0']
  code, _, err = ended('evaluate', f'--workdir={folder}', f'--classifier_from={classifier}', *flags)
  assert code == 0, err
  (path,) = (folder / 'evaluations').glob('*classifier*.json')
  record = json.loads(path.read_text())
  assert record['classifier_from'] == f'{classifier}@8' and record['options'] == {'classifier': 2.0}
