"""--config and its settings: any order, components by name, errors that name their flag."""

import functools

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


@pytest.mark.parametrize(
  ('path', 'name', 'setting', 'texts', 'value'),
  [
    ('sampling.sampler', 'edm', 's_churn', ['10'], 10.0),
    ('network', 'unet', 'multipliers', ['(1,2)'], (1, 2)),
    ('network', 'unet', 'multipliers', ['1', '2'], (1, 2)),
  ],
)
def test_a_name_applies_before_the_settings_of_its_component(path, name, setting, texts, value):
  config = config_flag.load(DIGITS, {f'{path}.{setting}': texts, f'{path}.name': [name]})
  found = functools.reduce(dict.get, path.split('.'), config)
  assert found['name'] == name and found[setting] == value
  assert type(found[setting]) is type(value)  # config.json holds 10.0, not 10


def test_a_path_is_expanded(monkeypatch):
  monkeypatch.setenv('HOME', '/home/me')
  config = parsed(f'--config={DIGITS}', '--config.data.source=~/x')
  assert config['data']['source'] == '/home/me/x'


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
    ({'train.keep': 'many'}, "--config.train.keep='many' must be a whole number"),
    ({'train.keep': '1.5'}, '--config.train.keep=1.5 must be a whole number'),
    ({'ema.warmup': 'perhaps'}, "--config.ema.warmup='perhaps' must be True or False"),
    ({'ema.decay': 'True'}, '--config.ema.decay=True must be a number'),
    ({'network.width': 'wide', 'seed': '4'}, "--config.network.width='wide' must be a"),
    ({'optimizer.clip': '-1'}, '--config.optimizer.clip=-1 must be at least 0 (0: off)'),
    ({'optimizer.clip': 'nan'}, '--config.optimizer.clip=nan must be finite and at least 0'),
    ({'optimizer.learning_rate': '1e999'}, '--config.optimizer.learning_rate=inf must be'),
    ({'ema.widths': 'wide'}, "--config.ema.widths=('wide',) must be a tuple of numbers"),
    ({'data': 'mnist'}, '--config.data=mnist: data is a section; write one of its settings, such'),
    ({'process': 'edm'}, 'such as --config.process.name=edm'),
    ({'data.source': 'gs://bucket'}, "--config.data.source='gs://bucket' must be a path on this"),
    ({'optimizer.no_decay': '('}, "--config.optimizer.no_decay='(' must be a regular expression"),
    ({'sampling.sampler': "{'name': 'edm', 'churn': 3}"}, 'unknown setting sampling.sampler.churn'),
  ],
)
def test_an_error_names_its_flag(settings, message):
  with pytest.raises(ConfigError) as error:
    config_flag.load(DIGITS, {'train.steps': ['7']} | {k: [v] for k, v in settings.items()})
  assert message in str(error.value) and '\n' not in str(error.value)


def test_a_vae_has_no_discriminator():
  with pytest.raises(
    ConfigError, match=r'--config\.discriminator\.width: there is no such setting'
  ):
    config_flag.load('configs/vae/images.py:digits', {'discriminator.width': ['32']})


def test_a_setting_of_a_group_in_the_file():
  file, rate = 'configs/gan/images.py:digits', 'optimizer.groups.generator.learning_rate'
  groups = config_flag.load(file, {rate: ['2']})['optimizer']['groups']
  assert groups['generator'] == {'paths': '^generator/', 'learning_rate': 2.0}
  with pytest.raises(ConfigError, match=f'^--config.{rate}=-1 must be above 0'):
    config_flag.load(file, {rate: ['-1']})
  with pytest.raises(ConfigError, match=r'generator\.learning_rat: there is no such setting'):
    config_flag.load(file, {rate.removesuffix('e'): ['2']})


def test_a_command_line_may_be_empty():
  flag = config_flag.define('A config.', flag_values=flags.FlagValues(), argv=[])
  assert flag.settings == {}
