"""--config and its settings: any order, components by name, errors that name their flag."""

import pytest
from absl import flags

from common.config import ConfigError
from experiments import config_flag, families

DIGITS = 'configs/diffusion/images.py:digits'


def parsed(*argv):
  """The config that a command line gives."""
  values = flags.FlagValues()
  flag = config_flag.define('A config.', flag_values=values, argv=argv)
  assert values(['train', *argv]) == ['train']
  return flag.load()


def test_settings_in_any_order_and_every_spelling():
  config = parsed(
    '--config.process.sigma_max=10',
    '--config.optimizer.learning_rate',
    '1e-4',
    '--config.ema.widths=(0.05,0.1)',
    '--noconfig.ema.warmup',
    '--config.network.scan',
    f'--config={DIGITS}',
    '--config.train.steps=5%',
    '--config.seed=3',
    '--config.seed=4',
    '--config.process.name=ve',
    '--config.classifier.network.name=dit',
    '--config.classifier.network.depth=2',
  )
  assert config['process'] == {
    'name': 've', 'sigma_min': 0.01, 'sigma_max': 10.0, 't_min': 1e-5, 't_max': 1.0,
  }  # fmt: skip
  assert config['optimizer']['learning_rate'] == 1e-4
  assert config['ema']['widths'] == (0.05, 0.1) and not config['ema']['warmup']
  assert config['network']['scan'] is True and config['train']['steps'] == '5%'
  assert config['seed'] == 4
  network = config['classifier']['network']
  assert (network['name'], network['depth'], network['width']) == ('dit', 2, 384)


def test_the_same_name_keeps_the_settings_of_the_file():
  before = families.load_config(DIGITS, {})
  assert before['process']['sigma_min'] == 0.03
  assert config_flag.load(DIGITS, {'process.name': ['edm']}) == before


def test_a_section_as_a_value_replaces_a_component():
  found = config_flag.load(DIGITS, {'sampling.sampler': ["{'name': 'edm', 's_churn': 3.0}"]})
  assert found['sampling']['sampler']['s_churn'] == 3.0
  assert found['sampling']['sampler']['s_noise'] == 1.0
  groups = config_flag.load(DIGITS, {'optimizer.groups': ["{'bias': {'paths': 'bias$'}}"]})
  assert groups['optimizer']['groups'] == {'bias': {'paths': 'bias$'}}


@pytest.mark.parametrize(
  ('settings', 'message'),
  [
    ({'train.stepz': '3'}, "--config.train.stepz: there is no such setting; did you mean 'train."),
    ({'learning_rate': '3'}, "such setting; did you mean 'optimizer.learning_rate'"),
    ({'process.beta_min': '3'}, "--config.process.beta_min: there is no such setting of 'edm'"),
    (
      {'process.name': 'vee'},
      "--config.process.name=vee: unknown process 'vee'; did you mean",
    ),
    ({'train.keep': 'many'}, '--config.train.keep=many: '),
    ({'train.keep': '1.5'}, '--config.train.keep=1.5: '),
    ({'ema.warmup': 'perhaps'}, '--config.ema.warmup=perhaps: '),
    ({'ema.decay': 'True'}, '--config.ema.decay=True: '),
    ({'network.width': 'wide', 'seed': '4'}, '--config.network.width=wide: '),
    ({'sampling.sampler': "{'name': 'edm', 'churn': 3}"}, 'unknown setting sampling.sampler.churn'),
  ],
)
def test_an_error_names_its_flag(settings, message):
  with pytest.raises(ConfigError) as error:
    config_flag.load(DIGITS, {'train.steps': ['7']} | {k: [v] for k, v in settings.items()})
  assert message in str(error.value) and '\n' not in str(error.value)


def test_a_command_line_may_be_empty():
  flag = config_flag.define('A config.', flag_values=flags.FlagValues(), argv=[])
  assert flag.settings == {}
