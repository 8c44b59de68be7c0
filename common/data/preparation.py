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
from absl import logging

from common import config as config_lib
from common.data import palettes
from common.data.builders import BUILDERS, base


def location(settings: Mapping[str, Any]) -> pathlib.Path:
  """The folder of the prepared dataset that these settings ask for, there or not.

  Custom data is named by its contents, so a changed folder or file is another dataset.

  Raises:
    ConfigError: for an unknown name, custom data that cannot be read, or a palette of what are no
      images.
  """
  builder = config_lib.pick(BUILDERS, settings['name'], 'data.name')
  variant, colours = builder.variant(settings), settings.get('palette', 0)
  palettes.check(colours)
  if colours:
    if not issubclass(builder, base.ImageBuilder):
      raise config_lib.ConfigError(f'data.palette={colours}: {builder.name} holds no images')
    variant = f'{variant}{"-" if variant else ""}palette{colours}'
  root = base.data_dir(settings) / 'twofold' / variant
  return root / builder.name / str(builder.VERSION)


def is_prepared(folder: pathlib.Path) -> bool:
  """Whether a complete dataset stands in this folder."""
  return all((folder / name).is_file() for name in ('dataset_info.json', 'features.json'))


def prepare(settings: Mapping[str, Any], network: bool) -> pathlib.Path:
  """Prepares a dataset, unless it is.

  Args:
    settings: the `data` section of a config.
    network: whether raw files that are missing here may be fetched.

  Returns:
    The folder of the prepared dataset.

  Raises:
    ConfigError: where raw data is missing or broken, or the folder cannot be written.
  """
  folder = location(settings)
  if is_prepared(folder):
    return folder
  builder_class = BUILDERS[settings['name']]
  try:
    # Left by something else: TFDS would take it for finished. Asked in this order, so that what
    # another process puts there meanwhile, which is complete, is never taken for such a thing.
    if folder.exists() and not is_prepared(folder):
      shutil.rmtree(folder)
    builder = builder_class(settings, network, data_dir=folder.parents[1])
    with _quiet():
      builder.download_and_prepare()
  except OSError as error:
    if not is_prepared(folder):  # else another process was faster
      raise config_lib.ConfigError(
        f'cannot prepare {settings["name"]} in {folder}: {error}'
      ) from error
  return folder


def open_prepared(folder: pathlib.Path) -> tfds.core.DatasetBuilder:
  """The dataset that stands in a folder."""
  with _quiet():
    return tfds.builder_from_directory(folder)


@contextlib.contextmanager
def _quiet():
  """TFDS prints and logs every step it takes; its progress bars are for a terminal only."""
  tfds.display_progress_bar(enable=sys.stderr.isatty())
  verbosity = logging.get_verbosity()
  logging.set_verbosity(min(verbosity, logging.WARNING))
  try:
    with open(os.devnull, 'w') as sink, contextlib.redirect_stdout(sink):
      yield
  finally:
    logging.set_verbosity(verbosity)
