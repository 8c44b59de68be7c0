"""The folder of a run: its config, also an older one, and the fingerprint of its data."""

import json

import pytest

from common.config import ConfigError
from common.data.pipeline import fingerprint
from configs.diffusion import images
from experiments import families
from experiments.startup import workdir as folders
from tests.experiments.startup.tiny import data


def test_a_fingerprint_depends_on_the_examples():
  assert fingerprint(data()) == fingerprint(data())
  assert len({fingerprint(d) for d in (data(), data(change=7), data(num=19))}) == 3


def test_a_run_resumes_only_with_the_data_it_began_with(tmp_path):
  config, workdir = families.complete(images.get_config('digits')), tmp_path / 'run'
  folders.reserve(workdir, config, data())
  folders.reserve(workdir, config, data())
  with pytest.raises(ConfigError, match=r'has changed since it began .20 .* then, 20 now.*--fresh'):
    folders.reserve(workdir, config, data(change=3))
  folders.move_aside(workdir)
  folders.reserve(workdir, config, data(change=3))
  assert (tmp_path / 'run.1' / 'config.json').exists()
  folders.reserve(workdir, config, data(change=3))
  (workdir / 'data.json').unlink()  # as in a run that is older than it
  folders.reserve(workdir, config, data())


def test_a_config_from_before_some_settings_still_works(tmp_path):
  config, workdir = families.complete(images.get_config('digits')), tmp_path / 'run'
  older = json.loads(json.dumps(config))
  del older['augmentation'], older['classifier'], older['sampling']['task'], older['ema']['widths']
  workdir.mkdir()
  (workdir / 'config.json').write_text(json.dumps(older))
  found = folders.config_of(workdir)
  assert found['augmentation'] == config['augmentation']
  assert found['sampling'] == config['sampling'] and found['process'] == config['process']
  folders.reserve(workdir, config, data())  # the same run: it resumes


def test_a_component_named_by_a_flag_is_the_same_when_read_back(tmp_path):
  """The flag gives only the name; the config in the folder has all settings."""
  config = families.complete(images.get_config('digits')) | {'process': {'name': 'cosine'}}
  folders.reserve(tmp_path / 'run', config, data())
  folders.reserve(tmp_path / 'run', config, data())
  with pytest.raises(ConfigError, match=r'process.t_max: there 0.999, now 0.5'):
    changed = config | {'process': {'name': 'cosine', 't_max': 0.5}}
    folders.reserve(tmp_path / 'run', changed, data())


@pytest.mark.parametrize(
  ('text', 'message'),
  [
    ('{"family": "diffusion"', 'config.json cannot be read'),
    ('[1]', 'config.json must hold a JSON object'),
    ('{"seed": 1}', 'names no family'),
    ('{"family": "flows"}', "unknown family 'flows'"),
  ],
)
def test_a_file_without_a_config_is_refused_in_one_line(tmp_path, text, message):
  (tmp_path / 'config.json').write_text(text)
  with pytest.raises(ConfigError, match=message):
    folders.config_of(tmp_path)
