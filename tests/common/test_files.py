"""Files that are read: only regular ones, since a pipe without a writer never ends."""

import os
import pathlib

import pytest

from common import config
from common.data.builders.series import Series
from common.data.spec import DataSpec
from common.domains.masks import read_mask
from common.files import check_writable


def test_a_pipe_is_refused_wherever_one_file_is_read(tmp_path):
  pipe = tmp_path / 'pipe.npy'
  os.mkfifo(pipe)
  with pytest.raises(config.ConfigError, match=r'pipe.npy must be a regular file'):
    config.read_json(pipe)
  with pytest.raises(ValueError, match=r'pipe.npy must be a regular file'):
    read_mask(str(pipe), DataSpec('some', 'image', (8, 8, 1), 17), 0)
  with pytest.raises(ValueError, match=r'pipe.npy must be a regular file'):
    Series.variant({'source': str(pipe)})


def test_a_folder_that_cannot_be_written_is_refused_and_nothing_is_left(tmp_path):
  check_writable(tmp_path / 'a' / 'b')
  assert not list(tmp_path.iterdir())
  for folder in (pathlib.Path('/proc/x'), tmp_path / ('x' * 300)):
    with pytest.raises(ValueError, match=r'^cannot be written: '):
      check_writable(folder)
