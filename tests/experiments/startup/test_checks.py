"""What a run needs after its first step is checked before it: nothing fails late."""

import re

import jax
import pytest

from common.config import ConfigError
from common.data.pipeline import Data
from common.training.parallel import make_mesh
from common.training.program import build_program
from experiments import families
from experiments.startup import checks
from tests.experiments.startup import tiny

DIFFUSION, AUTOREGRESSIVE, CLASSIFIER = 'diffusion', 'autoregressive', 'classifier'


def check(config, data):
  method = families.build(config, data.spec)
  mesh = make_mesh(config['parallel'], jax.devices()[:1])
  checks.check(config, method, data, build_program(config, method, data.spec, mesh))


@pytest.mark.parametrize('family', [DIFFUSION, AUTOREGRESSIVE])
@pytest.mark.parametrize(('channels', 'classes'), [(1, 3), (2, 0)])
def test_a_config_that_can_finish_passes(family, channels, classes):
  extractor = 'mlp' if classes else 'pixels'
  config = tiny.config(family, train__sample_every='10', evaluation__extractor=extractor)
  check(config, tiny.data((4, 4, channels), classes=classes))


@pytest.mark.parametrize(
  ('family', 'changes', 'message'),
  [
    (DIFFUSION, dict(sampling__threshold__name='soft'), 'soft'),
    (DIFFUSION, dict(sampling__task__name='inpait'), 'inpait'),
    (DIFFUSION, dict(sampling__task__name='inpaint'), 'cannot draw .* takes past and mask'),
    (DIFFUSION, dict(sampling__grid__name='respaced'), 'needs a discrete process'),
    (DIFFUSION, dict(sampling__grid__name='given'), 'grid.times lists 0 times, but 2 are'),
    (
      DIFFUSION,
      dict(sampling__guidance__classifier='1.0'),
      'needs a request with labels',
    ),
    (DIFFUSION, dict(sampling__sampler__name='unipc', sampling__sampler__order='9'), 'order'),
    (DIFFUSION, dict(sampling__guidance__weight='2.0', label_dropout='0.0'), 'label_dropout is 0'),
    (AUTOREGRESSIVE, dict(sampling__guidance='2.0'), 'needs classes and a model trained with'),
    (AUTOREGRESSIVE, dict(sampling__stop='(9999,)'), r'sampling.stop'),
    (AUTOREGRESSIVE, dict(sampling__length='7'), 'this data has a fixed length'),
    (AUTOREGRESSIVE, dict(train__best_metric='mse'), "unknown train.best_metric 'mse'; .*bits_per"),
    (DIFFUSION, dict(train__best_metric='bits'), "unknown train.best_metric 'bits'; .*loss, mse"),
    (DIFFUSION, dict(evaluation__split='tset'), "unknown evaluation.split 'tset'; did you mean"),
    (DIFFUSION, dict(evaluation__extractor='fid'), "unknown evaluation.extractor 'fid'"),
    (AUTOREGRESSIVE, dict(network__attention='cudnn'), r"the platform 'cpu' \(only GPUs\)"),
    (CLASSIFIER, dict(train__sample_every='10'), 'draws no samples .* set train.sample_every=0'),
    (CLASSIFIER, dict(train__best_metric='mse'), "'mse'; .*accuracy, loss"),
    (DIFFUSION, dict(train__micro_batches='3'), 'batch_size=16 must be a multiple of 3'),
  ],
  ids=lambda value: '-'.join(value) if isinstance(value, dict) else '',
)
def test_a_config_that_would_fail_later_is_refused_at_once(family, changes, message):
  with pytest.raises(ConfigError) as error:
    check(tiny.config(family, **changes), tiny.data(classes=3))
  assert re.search(message, str(error.value)) and '\n' not in str(error.value)


def test_features_of_a_classifier_need_classes():
  with pytest.raises(ConfigError, match=r"extractor='mlp' needs .* set it to 'pixels'"):
    check(tiny.config(DIFFUSION, evaluation__extractor='mlp'), tiny.data())
  check(tiny.config(DIFFUSION), tiny.data())  # the default suits them


def test_every_split_needs_an_example():
  data = tiny.data()
  for name in data.splits:
    splits = data.splits | {name: tiny.Images(data.splits[name].x[:0])}
    with pytest.raises(ConfigError, match=f'the {name} split of toy is empty'):
      check(tiny.config(DIFFUSION), Data(data.spec, splits))
