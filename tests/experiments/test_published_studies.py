"""Studies of published data, at their smallest scale: they run on small files of the same layout.

The files themselves are downloaded, which no test may need.
"""

import os
import subprocess
import sys

import pytest

from common.config_files import call
from common.studies.plans import Study
from tests.experiments.commands import ROOT, environment
from tests.experiments.published import STUDIES


@pytest.mark.slow
@pytest.mark.parametrize('name', STUDIES)
def test_a_study_of_published_data_runs(name, tmp_path):
  # In a process of its own: there the builders expect the small files.
  command = [sys.executable, '-m', 'tests.experiments.published', name, str(tmp_path)]
  env = os.environ | environment(devices=1)
  ended = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, check=False)
  assert ended.returncode == 0, ended.stdout + ended.stderr
  table = (tmp_path / 'work' / 'table.md').read_text()
  rows = call(f'configs/ablations/{name}.py:smoke', 'get_study', Study).rows
  assert all(f'| {row.name} |' in table for row in rows)
  assert (tmp_path / 'work' / 'report.html').is_file()
