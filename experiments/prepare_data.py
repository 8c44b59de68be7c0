"""Prepares a dataset once, so that training reads it without a network and without TensorFlow.

  python -m experiments.prepare_data --dataset=mnist
  python -m experiments.prepare_data --dataset=image_folder --source=faces/ --image_size=64
  python -m experiments.prepare_data --dataset=shakespeare --context=64
  python -m experiments.prepare_data --dataset=aus_retail --context=48 --horizon=12
  python -m experiments.prepare_data --dataset=chorales

Examples come in splits train, validation and test; docs/datasets.md says where each dataset comes
from and how it is split. Training prepares digits, image_folder, npz, text, python_code and series
by itself.
"""

from absl import flags

from common.data import pipeline, preparation
from common.data.builders import BUILDERS
from common.data.tokenizers import TOKENIZERS
from experiments import cli

DATASET = flags.DEFINE_string('dataset', None, ', '.join(BUILDERS) + '.', required=True)
SOURCE = flags.DEFINE_string(
  'source',
  '',
  'Images, .npz file, text file or folder, .csv file, or raw files that are here already.',
)
DATA_DIR = flags.DEFINE_string(
  'data_dir', '', 'Where to put it; empty: $TFDS_DATA_DIR, else ~/tensorflow_datasets.'
)
IMAGE_SIZE = flags.DEFINE_integer(
  'image_size', 0, 'image_folder: cut to squares and resize to this; 0: as they are.', lower_bound=0
)
BROKEN = flags.DEFINE_string(
  'broken', 'refuse', "image_folder, text: 'refuse' a file that is none, or 'skip' it."
)
PALETTE = flags.DEFINE_integer(
  'palette', 0, 'Images: pixels as indices of so many colours, found by k-means; 0: as they are.'
)
CONTEXT = flags.DEFINE_integer(
  'context',
  64,
  'Text, chorales: tokens or frames predicted in a window. Time series: values before a forecast.',
  lower_bound=1,
)
HORIZON = flags.DEFINE_integer('horizon', 12, 'Time series: values to forecast.', lower_bound=1)
STRIDE = flags.DEFINE_integer(
  'stride', 1, 'Time series: steps from one training window to the next.', lower_bound=1
)
TOKENIZER = flags.DEFINE_string('tokenizer', 'characters', f'Text: {", ".join(TOKENIZERS)}.')
VOCABULARY = flags.DEFINE_integer('vocabulary', 1024, 'Text, bpe: tokens to train.')
TOKENIZER_FILES = flags.DEFINE_string(
  'tokenizer_files', '', 'Text, gpt2: folder of vocab.json and merges.txt, or of tokenizer.json.'
)


def main() -> None:
  settings = dict(
    name=DATASET.value,
    dir=DATA_DIR.value,
    source=SOURCE.value,
    image_size=IMAGE_SIZE.value,
    broken=BROKEN.value,
    palette=PALETTE.value,
    context=CONTEXT.value,
    horizon=HORIZON.value,
    stride=STRIDE.value,
    tokenizer=TOKENIZER.value,
    vocabulary=VOCABULARY.value,
    tokenizer_files=TOKENIZER_FILES.value,
  )
  folder = preparation.prepare(settings, network=True)
  spec, splits = pipeline.load(settings)
  counts = ', '.join(f'{split} {len(source):,}' for split, source in splits.items())
  print(f'{spec.name}: {counts}')
  if spec.domain == 'text':
    print(f'windows of {spec.shape[0] - 1} + 1 tokens, of {spec.levels:,}')
  elif spec.domain == 'series':
    print(f'windows of {spec.shape[0] - spec.series.horizon} + {spec.series.horizon} steps')
  elif spec.domain == 'music':
    steps, voices = spec.shape
    print(f'windows of {steps - 1} + 1 frames of {voices} voices, {spec.levels} values each')
  else:
    print(f'{"×".join(map(str, spec.shape))}, {spec.levels} levels, {spec.num_classes} classes')
  for note in preparation.open_prepared(folder).info.metadata['notes']:
    print(note)
  print(folder)


if __name__ == '__main__':
  cli.run(main)
