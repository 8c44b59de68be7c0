"""Prepares a dataset once, so that training reads it without a network and without TensorFlow.

  python -m experiments.prepare_data --dataset=mnist
  python -m experiments.prepare_data --dataset=cifar10 --source=cifar-10-binary.tar.gz
  python -m experiments.prepare_data --dataset=image_folder --source=faces/ --image_size=64
  python -m experiments.prepare_data --dataset=shakespeare --context=64
  python -m experiments.prepare_data --dataset=aus_retail --context=48 --horizon=12
  python -m experiments.prepare_data --dataset=chorales

The splits are train, validation and test; docs/datasets.md describes the source and the split of
each dataset. Training itself prepares digits, image_folder, npz, text, python_code and series.
"""

from absl import flags

from common.data import pipeline, preparation
from common.data.builders import BUILDERS
from common.data.tokenizers import TOKENIZERS
from common.domains import domain_of
from experiments import cli

DATASET = flags.DEFINE_string('dataset', None, 'Name: ' + ', '.join(BUILDERS) + '.', required=True)
SOURCE = flags.DEFINE_string(
  'source',
  '',
  'Folder of images, .npz file, text file or folder, .csv file, or raw files from an earlier '
  'download: their folder or, for cifar10, an archive.',
)
DATA_DIR = flags.DEFINE_string(
  'data_dir', '', 'Folder to write to; empty: $TFDS_DATA_DIR, or else ~/tensorflow_datasets.'
)
IMAGE_SIZE = flags.DEFINE_integer(
  'image_size',
  0,
  'image_folder: crop images to squares and resize them to this; 0: keep their sizes.',
  lower_bound=0,
)
BROKEN = flags.DEFINE_string(
  'broken', 'refuse', "image_folder, text: 'refuse' a file that cannot be read, or 'skip' it."
)
PALETTE = flags.DEFINE_integer(
  'palette',
  0,
  'Images: replace pixels by indices into a palette of this number of k-means colours; 0: no.',
)
CONTEXT = flags.DEFINE_integer(
  'context',
  64,
  'Text, chorales: tokens or frames to predict in a window. Series: values before a forecast.',
  lower_bound=1,
)
HORIZON = flags.DEFINE_integer('horizon', 12, 'Time series: values to forecast.', lower_bound=1)
STRIDE = flags.DEFINE_integer(
  'stride', 1, 'Time series: steps from one training window to the next.', lower_bound=1
)
TOKENIZER = flags.DEFINE_string(
  'tokenizer', 'characters', f'Text: tokenizer, one of {", ".join(TOKENIZERS)}.'
)
VOCABULARY = flags.DEFINE_integer('vocabulary', 1024, 'Text, bpe: size of the vocabulary.')
TOKENIZER_FILES = flags.DEFINE_string(
  'tokenizer_files',
  '',
  'Text, gpt2: folder with vocab.json and merges.txt, or with tokenizer.json.',
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
  print(domain_of(spec).describe(spec))
  for note in preparation.open_prepared(folder).info.metadata['notes']:
    print(note)
  print(folder)


if __name__ == '__main__':
  cli.run(main)
