"""Prepared datasets: where they are stored, and how they are prepared safely.

A dataset is stored as DIR/twofold/[VARIANT/]NAME/VERSION, in TFDS's format. TFDS writes it into a
temporary folder next to this one, which is renamed once it is complete. A process that is killed
therefore leaves nothing that looks like a finished dataset, and if two processes prepare the same
dataset, the first to finish wins.
"""

import contextlib
import os
import pathlib
import shutil
import sys
from collections.abc import Iterator, Mapping
from typing import Any

import tensorflow_datasets as tfds
from absl import logging

from common import buckets
from common import config as config_lib
from common.data import palettes
from common.data.builders import BUILDERS, base
from common.files import Path, exists, in_bucket


def location(settings: Mapping[str, Any]) -> Path:
  """The folder of the prepared dataset for these settings, whether it exists or not.

  For the user's own data its name contains a hash, so a changed folder or file counts as a new
  dataset.

  Raises:
    ConfigError: for an unknown name, for a source that the dataset does not read, for source files
      that cannot be listed or read, or for a size, palette, flips, shifts or an end of
      training that do not suit the data.
  """
  if settings['name'] == 'none':
    raise config_lib.ConfigError(
      "data.name='none' holds no data; set data.name, such as 'text' with data.source=MY.txt"
    )
  builder = config_lib.pick(BUILDERS, settings['name'], 'data.name')
  if (source := settings.get('source', '')) and 'source' not in builder.flags:
    raise config_lib.ConfigError(
      f'data.source={source!r} does not apply to {builder.name}; for your own data, set data.name '
      'to image_folder, npz, text, dialogues or series, or leave data.source out'
    )
  if (size := settings.get('image_size', 0)) and 'image_size' not in builder.flags:
    resized = ', '.join(name for name, one in BUILDERS.items() if 'image_size' in one.flags)
    raise config_lib.ConfigError(
      f'data.image_size={size} is for {resized}, not for {builder.name}; set data.image_size=0'
    )
  if settings.get('flip') and not builder.holds_images:
    raise config_lib.ConfigError(
      f'data.flip=True mirrors images, and {builder.name} holds none; set data.flip=False'
    )
  if settings.get('shift') and not builder.holds_streams:
    raise config_lib.ConfigError(
      'data.shift=True is for windows of a stream of text or music, and '
      f'{builder.name} holds none; set data.shift=False'
    )
  if (permutation := settings.get('permutation', 0)) and 'permutation' not in builder.flags:
    raise config_lib.ConfigError(
      f'data.permutation={permutation} is the order of pixels of a sequential set, such as '
      f"'sequential_digits', not of {builder.name}; set data.permutation=0"
    )
  train_to = settings.get('train_to', 'validation')
  if train_to != 'validation' and 'train_to' not in builder.flags and not builder.holds_images:
    raise config_lib.ConfigError(
      f'data.train_to={train_to!r} is for time series and images, and {builder.name} holds '
      'neither; leave it out'
    )
  if train_to == 'end' and builder.holds_images:
    raise config_lib.ConfigError(
      "data.train_to='end' is for time series: of images, 'test' trains on all but the test split"
    )
  variant, num_colours = builder.variant(settings), settings.get('palette', 0)
  palettes.check_num_colours(num_colours)
  if num_colours:
    if not builder.holds_images:
      raise config_lib.ConfigError(
        f'data.palette={num_colours} is for images, and {builder.name} holds none; set '
        'data.palette=0'
      )
    variant = f'{variant}{"-" if variant else ""}palette{num_colours}'
  if settings.get('shift'):  # other windows need the next one, and TFDS stores them in any order
    variant = f'{variant}{"-" if variant else ""}in_order'
  root = base.data_dir(settings) / 'twofold' / variant
  return root / builder.name / str(builder.VERSION)


def trained_on(settings: Mapping[str, Any]) -> tuple[str, ...]:
  """The prepared splits that are trained on; time series are cut when they are prepared."""
  joined = BUILDERS[settings['name']].holds_images and settings.get('train_to') == 'test'
  return ('train', 'validation') if joined else ('train',)


def is_prepared(folder: Path) -> bool:
  """Whether this folder holds a complete dataset."""
  return all((folder / name).is_file() for name in ('dataset_info.json', 'features.json'))


def prepare(settings: Mapping[str, Any], network: bool) -> pathlib.Path:
  """Prepares a dataset, unless it is already prepared.

  One in a bucket is copied to this machine, once.

  Args:
    settings: the `data` section of a config.
    network: whether missing raw files may be downloaded.

  Returns:
    The folder of the prepared dataset, on this machine.

  Raises:
    ConfigError: if raw data is missing or broken, or the folder cannot be written.
  """
  folder = location(settings)
  if in_bucket(folder):
    return _copied(folder, settings['name'])
  if is_prepared(folder):
    return folder
  builder_class = BUILDERS[settings['name']]
  if builder_class.holds_images:  # whose splits are joined when they are read (`pipeline.load`)
    settings = {**settings, 'train_to': 'validation'}
  try:
    # TFDS would take an incomplete folder for a finished dataset. The order of the two checks
    # matters: if another process finishes between them, the second finds its folder complete and
    # keeps it.
    if folder.exists() and not is_prepared(folder):
      shutil.rmtree(folder)
    # TFDS appends NAME/VERSION to `data_dir`.
    builder = builder_class(settings, network, data_dir=folder.parents[1])
    with _quiet():
      builder.download_and_prepare()
    if not network:  # in a run; the command that prepares data prints them itself
      for note in builder.info.metadata['notes']:
        logging.info('%s: %s', builder.name, note)
  except OSError as error:
    # Renaming fails if another process was faster; then its dataset is used.
    if not is_prepared(folder):
      raise config_lib.ConfigError(
        f'cannot prepare {settings["name"]} in {folder}: {error.strerror or error}'
      ) from error
  return folder


def _copied(folder: Path, name: str) -> pathlib.Path:
  """The copy on this machine of a prepared dataset in a bucket: ArrayRecord reads only files."""
  try:
    if not (exists(folder) and is_prepared(folder)):
      root = str(folder).partition('/twofold/')[0]
      raise config_lib.ConfigError(
        f'there is no prepared dataset in {folder}: prepare it on this machine with twofold '
        f'prepare_data --dataset={name} --data_dir=FOLDER, and then copy it with gcloud storage cp '
        f'--recursive FOLDER/twofold {root}/'
      )
    return buckets.local_copy(folder)
  except OSError as error:
    raise config_lib.ConfigError(f'cannot copy {folder} to this machine: {error}') from error


def open_prepared(folder: Path) -> tfds.core.DatasetBuilder:
  """Opens the dataset in a folder."""
  with _quiet():
    return tfds.builder_from_directory(folder)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
  """Silences TFDS, which prints and logs every step; progress bars appear in a terminal only."""
  tfds.display_progress_bar(enable=sys.stderr.isatty())
  verbosity = logging.get_verbosity()
  logging.set_verbosity(min(verbosity, logging.WARNING))
  try:
    # TFDS prints to stdout, which belongs to the command's own output.
    with open(os.devnull, 'w') as sink, contextlib.redirect_stdout(sink):
      yield
  finally:
    logging.set_verbosity(verbosity)
