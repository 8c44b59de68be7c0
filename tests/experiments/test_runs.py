"""The folder of a run: its config, also an older one, and the fingerprint of its data."""

import json

import numpy as np
import pytest

from common.config import ConfigError
from common.data.pipeline import Data, fingerprint
from common.data.sources import Source
from common.data.spec import DataSpec
from configs.diffusion import images
from experiments import families, runs


class Images(Source):
  """A split of given images."""

  def __init__(self, x):
    self.x = x

  def __len__(self):
    return len(self.x)

  def gather(self, indices):
    return {'x': self.x[indices]}


def data(change=None, num=20):
  x = np.random.default_rng(0).integers(0, 256, (num, 4, 4, 1), np.uint8)
  if change is not None:
    x[change] += 1
  spec = DataSpec('toy', 'image', (4, 4, 1), 256, num_train=num)
  return Data(spec, {split: Images(x) for split in ('train', 'validation', 'test')})


def test_a_fingerprint_depends_on_the_examples():
  assert fingerprint(data()) == fingerprint(data())
  assert len({fingerprint(d) for d in (data(), data(change=7), data(num=19))}) == 3


def test_a_run_resumes_only_with_the_data_it_began_with(tmp_path):
  config, workdir = families.complete(images.get_config('digits')), tmp_path / 'run'
  runs.lock_workdir(workdir, config, data(), fresh=False)
  runs.lock_workdir(workdir, config, data(), fresh=False)
  with pytest.raises(ConfigError, match=r'has changed since it began .20 .* then, 20 now.*--fresh'):
    runs.lock_workdir(workdir, config, data(change=3), fresh=False)
  runs.lock_workdir(workdir, config, data(change=3), fresh=True)
  assert (tmp_path / 'run.1' / 'config.json').exists()
  runs.lock_workdir(workdir, config, data(change=3), fresh=False)
  (workdir / 'data.json').unlink()  # as in a run that is older than it
  runs.lock_workdir(workdir, config, data(), fresh=False)


def test_a_config_from_before_some_settings_still_works(tmp_path):
  config, workdir = families.complete(images.get_config('digits')), tmp_path / 'run'
  older = json.loads(json.dumps(config))
  del older['augmentation'], older['classifier'], older['sampling']['task'], older['ema']['widths']
  workdir.mkdir()
  (workdir / 'config.json').write_text(json.dumps(older))
  found = runs.config_of(workdir)
  assert found['augmentation'] == config['augmentation']
  assert found['sampling'] == config['sampling'] and found['process'] == config['process']
  runs.lock_workdir(workdir, config, data(), fresh=False)  # the same run: it resumes


def test_a_component_named_by_a_flag_is_the_same_when_read_back(tmp_path):
  """The flag gives only the name; the config in the folder has all settings."""
  config = families.complete(images.get_config('digits')) | {'process': {'name': 'cosine'}}
  runs.lock_workdir(tmp_path / 'run', config, data(), fresh=False)
  runs.lock_workdir(tmp_path / 'run', config, data(), fresh=False)
  with pytest.raises(ConfigError, match=r'process.t_max: there 0.999, now 0.5'):
    changed = config | {'process': {'name': 'cosine', 't_max': 0.5}}
    runs.lock_workdir(tmp_path / 'run', changed, data(), fresh=False)


@pytest.mark.parametrize(
  ('text', 'message'),
  [
    ('{"family": "diffusion"', 'config.json cannot be read'),
    ('[1]', 'config.json must hold a JSON object'),
    ('{"seed": 1}', 'names no family'),
    ('{"family": "gan"}', "unknown family 'gan'"),
  ],
)
def test_a_file_without_a_config_is_refused_in_one_line(tmp_path, text, message):
  (tmp_path / 'config.json').write_text(text)
  with pytest.raises(ConfigError, match=message):
    runs.config_of(tmp_path)
