"""Prepares a dataset once, so that training reads it without a network and without TensorFlow.

  twofold prepare_data --dataset=mnist
  twofold prepare_data --dataset=cifar10 --source=cifar-10-binary.tar.gz
  twofold prepare_data --dataset=image_folder --source=faces/ --image_size=64
  twofold prepare_data --dataset=shakespeare --context=64
  twofold prepare_data --dataset=aus_retail --context=48 --horizon=12
  twofold prepare_data --dataset=chorales

The splits are train, validation and test; docs/datasets.md describes the source and the split of
each dataset. Training itself prepares digits, image_folder, npz, text, python_code, series,
copy_memory and sequential_digits.
"""

import contextlib
import re
from collections.abc import Iterator
from typing import Any

from absl import flags

from common.config import ConfigError, pick, plain_defaults
from common.data import pipeline, preparation
from common.data.builders import BUILDERS
from common.data.builders.text import HELD_OUT
from common.data.palettes import MAX_COLOURS
from common.data.series.layouts import LAYOUTS
from common.data.series.windows import TRAIN_TO
from common.data.tokenizers import TOKENIZERS
from common.domains import domain_of
from configs import base
from experiments import cli

MAX_COUNT = base.UP_TO_A_MILLION.high

DATASET = cli.define('dataset', 'Name: ' + ', '.join(BUILDERS) + '.', required=True)
DATA_DIR = cli.define(
  'data_dir',
  'Folder to write to; default: $TFDS_DATA_DIR, or else ~/tensorflow_datasets.',
  cli.OutFolderParser(),
)
# Each dataset takes some of these flags (`Builder.flags`); they are the settings of a config's
# `data` section.
SETTINGS = (
  cli.define(
    'source',
    'Folder of images, .npz file, text file or folder, .csv or .parquet file, or raw files from an '
    'earlier download: their folder or, for cifar10, an archive.',
    cli.PathParser(),
  ),
  flags.DEFINE_integer(
    'image_size',
    None,
    'image_folder, imagenet: crop images to squares of this size (image_folder: no crop). mnist, '
    'fashion_mnist, cifar10: make them this small, by the means of squares of pixels (unchanged).',
    lower_bound=1,
    upper_bound=base.SETTINGS['data']['image_size'].range.high,
  ),
  flags.DEFINE_enum(
    'broken',
    None,
    ['refuse', 'skip'],
    'image_folder, text: what to do with a file that cannot be read; default: refuse.',
  ),
  flags.DEFINE_integer(
    'palette',
    None,
    'Images: replace pixels by indices into a palette of this number of k-means colours.',
    lower_bound=2,
    upper_bound=MAX_COLOURS,
  ),
  flags.DEFINE_integer(
    'context',
    None,
    'Text, chorales, piano_rolls: tokens or frames in a window (64). Series: values before a '
    'forecast (64).',
    lower_bound=1,
    upper_bound=MAX_COUNT,
  ),
  cli.define('collection', 'piano_rolls: jsb, nottingham, musedata or piano_midi.'),
  flags.DEFINE_integer(
    'overlap',
    None,
    'piano_rolls: frames of a window that repeat the one before, and are given (1).',
    lower_bound=1,
    upper_bound=MAX_COUNT,
  ),
  flags.DEFINE_integer(
    'blanks',
    None,
    'copy_memory: blanks between the symbols and their copies (100).',
    lower_bound=1,
    upper_bound=base.SETTINGS['data']['blanks'].range.high,
  ),
  flags.DEFINE_integer(
    'permutation',
    None,
    'sequential_*: seed of the order of the pixels of an image (0: rows from top to bottom).',
    lower_bound=0,
    upper_bound=base.SETTINGS['data']['permutation'].range.high - 1,
  ),
  flags.DEFINE_integer(
    'horizon',
    None,
    'Time series: values to forecast (the published number, or 12).',
    lower_bound=1,
    upper_bound=MAX_COUNT,
  ),
  flags.DEFINE_integer(
    'stride',
    None,
    'Time series: steps from one training window to the next (1).',
    lower_bound=1,
    upper_bound=MAX_COUNT,
  ),
  *(
    flags.DEFINE_integer(
      name, None, f'Time series: {meaning}.', lower_bound=1, upper_bound=MAX_COUNT
    )
    for name, meaning in (
      ('min_context', 'least values before the horizon of a training window (all)'),
      ('rolling', 'windows of each series in validation, and in test (1)'),
      ('roll_by', 'steps from one of these windows to the next (the horizon)'),
      ('rolling_multiple', 'the number of these windows is a multiple of this (1)'),
    )
  ),
  flags.DEFINE_bool('shift', None, 'Text, music: keep windows in order, for data.shift=True.'),
  flags.DEFINE_enum(
    'held_out', None, list(HELD_OUT), 'A single text: the splits of its last tenth; default: both.'
  ),
  flags.DEFINE_enum(
    'train_to', None, list(TRAIN_TO), 'Time series: where training ends; default: validation.'
  ),
  cli.define('unit', 'Time series: what the values are measured in, for tables and pictures.'),
  cli.define('frequency', 'Time series: the frequency to keep of several: monthly, 30 minutes.'),
  *(
    cli.define(role, f'series: {meaning}; default: the one with a known name.')
    for role, meaning in (
      ('target', 'column of the values'),
      ('time', 'column of the times'),
      ('series', "columns that name a series, 'a,b', or none"),
    )
  ),
  cli.define('covariates', "series: columns next to the value: 'all' others, 'none', or 'a,b'."),
  cli.define('categories', "series: covariates whose numbers are names: 'a,b'; texts always are."),
  cli.define('observed', "series: covariates that are known only afterwards: 'a,b'."),
  flags.DEFINE_enum(
    'layout',
    None,
    list(LAYOUTS),
    'series: whether a row is a value, or each column or each row a series; default: long.',
  ),
  flags.DEFINE_enum('tokenizer', None, list(TOKENIZERS), 'Text: tokenizer (characters).'),
  flags.DEFINE_integer(
    'vocabulary',
    None,
    'Text, bpe: size of the vocabulary (1024).',
    lower_bound=1,
    upper_bound=MAX_COUNT,
  ),
  cli.define(
    'tokenizer_files',
    'Text, gpt2: folder with vocab.json and merges.txt, or with tokenizer.json.',
    cli.FolderParser(),
  ),
  cli.define(
    'template',
    'dialogues: file with a chat template; default: that of tokenizer_files.',
    cli.PathParser(),
  ),
)


def given_settings(dataset: str) -> dict[str, Any]:
  """The settings that the flags give. Raises ConfigError for a flag that does not apply."""
  applicable = pick(BUILDERS, dataset, '--dataset').flags
  given = {flag.name: flag.value for flag in SETTINGS if flag.value is not None}
  for name in given.keys() - set(applicable):
    known = ', '.join(f'--{flag}' for flag in applicable) or 'none'
    raise ConfigError(f'--{name} does not apply to {dataset}; its flags: {known}')
  return given


@contextlib.contextmanager
def errors_name_flags() -> Iterator[None]:
  """Errors about the `data` section of a config name the flags of this command."""
  names = {flag.name: flag.name for flag in SETTINGS} | {'name': 'dataset', 'dir': 'data_dir'}
  try:
    yield
  except ConfigError as error:
    text = str(error)
    for setting, flag in names.items():
      text = re.sub(rf'\bdata\.{setting}\b', f'--{flag}', text)
    raise ConfigError(text) from error


def main() -> None:
  # The same defaults as those of training.
  settings = plain_defaults(base.SETTINGS['data']) | given_settings(DATASET.value)
  settings |= {'name': DATASET.value, 'dir': DATA_DIR.value or ''}
  with errors_name_flags():
    folder = preparation.prepare(settings, network=True)
    data = pipeline.load(settings)
  counts = ', '.join(f'{split} {len(source):,}' for split, source in data.splits.items())
  print(f'{data.spec.name}: {counts}')
  print(domain_of(data.spec).describe(data.spec))
  for note in preparation.open_prepared(folder).info.metadata['notes']:
    print(note)
  print(folder)


if __name__ == '__main__':
  cli.run(main)
