"""Prepared datasets: where they stand, whether they are whole, and how they get there.

A dataset stands under DIR/twofold/[VARIANT/]NAME/VERSION, as TFDS writes it. It is written beside
that folder and renamed once it is complete, so a process that is killed leaves nothing that could
be taken for a finished dataset, and of two processes that prepare the same one the first wins.
"""

import contextlib
import os
import pathlib
import shutil
import sys
from collections.abc import Mapping
from typing import Any

import tensorflow_datasets as tfds

from common import config as config_lib
from common.data.builders import BUILDERS, base


def data_dir(settings: Mapping[str, Any]) -> pathlib.Path:
  """Where datasets are prepared: `dir` of the settings, else TFDS's own default."""
  default = os.environ.get('TFDS_DATA_DIR') or '~/tensorflow_datasets'
  return pathlib.Path(settings.get('dir') or default).expanduser()


def location(settings: Mapping[str, Any]) -> pathlib.Path:
  """The folder of the prepared dataset that these settings ask for, there or not.

  Custom data is named by its contents, so a changed folder or file is another dataset.

  Raises:
    ConfigError: for an unknown name, or custom data that cannot be read.
  """
  builder = config_lib.pick(BUILDERS, settings['name'], 'data.name')
  root = data_dir(settings) / 'twofold' / builder.variant(settings)
  return root / builder.name / str(builder.VERSION)


def is_prepared(folder: pathlib.Path) -> bool:
  """Whether a complete dataset stands in this folder."""
  return all((folder / name).is_file() for name in ('dataset_info.json', 'features.json'))


def prepare(settings: Mapping[str, Any], network: bool) -> tuple[pathlib.Path, tuple[str, ...]]:
  """Prepares a dataset, unless it is.

  Args:
    settings: the `data` section of a config.
    network: whether raw files that are missing here may be fetched.

  Returns:
    The folder of the prepared dataset, and what a person should hear of its preparation.

  Raises:
    ConfigError: where raw data is missing or broken, or the folder cannot be written.
  """
  folder = location(settings)
  if is_prepared(folder):
    return folder, ()
  builder_class = BUILDERS[settings['name']]
  try:
    if folder.exists():  # left by something that is not us: TFDS would take it for finished
      shutil.rmtree(folder)
    builder = builder_class(settings, network, data_dir=folder.parents[1])
    with _quiet():
      builder.download_and_prepare()
  except OSError as error:
    if not is_prepared(folder):  # else another process was faster
      raise config_lib.ConfigError(f'cannot prepare {settings["name"]} in {folder}: {error}')
  return folder, builder.contents.notes


@contextlib.contextmanager
def _quiet():
  """TFDS prints to stdout; its progress bars are for a terminal only."""
  tfds.display_progress_bar(enable=sys.stderr.isatty())
  with open(os.devnull, 'w') as sink, contextlib.redirect_stdout(sink):
    yield


def splits_of(folder: pathlib.Path) -> dict[str, int]:
  """The number of examples in each split of a prepared dataset."""
  info = tfds.builder_from_directory(folder).info
  return {split: info.splits[split].num_examples for split in base.SPLITS}
