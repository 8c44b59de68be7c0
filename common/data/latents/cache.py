"""Latents of a dataset: encoded once, and stored on disk.

They are stored as DIR/twofold/latents/NAME-DIGEST, where the digest covers the weights of the first
stage and the images: all of small training and validation splits, and evenly spaced ones of every
split. Latents that are
numbers are divided by their own standard deviation over the training split, so that they have unit
variance (Rombach et al. 2022, appendix G).
"""

import hashlib
import json
import math
import pathlib
from collections.abc import Iterator, Mapping
from typing import NamedTuple

import numpy as np
from absl import logging
from jaxtyping import Num

from common.config import ConfigError, read_json
from common.data.latents.first_stage import BATCH, FirstStage, in_batches
from common.data.sources import GivenSource, Source
from common.data.spec import token_dtype
from common.files import Path, atomic_folder, in_bucket
from common.reporting.progress import reported

SAMPLED = 4096  # evenly spaced images of each split that the name of a folder depends on
MIN_DEVIATION = 1e-4  # of latents: with less, they say nothing about the images


class Encoded(NamedTuple):
  """The latents of a dataset: a source for each split, and their deviation."""

  splits: dict[str, Source]
  deviation: float


def encode(
  splits: Mapping[str, Source], stage: FirstStage, root: Path, name: str, fingerprint: str
) -> Encoded:
  """The latents of all splits; encoded once, and read from disk afterwards.

  Args:
    splits: the images.
    stage: the first stage.
    root: the folder of prepared datasets.
    name: name of the dataset.
    fingerprint: that of the images (`pipeline.fingerprint`).

  Raises:
    ConfigError: for latents without variance, or a folder that cannot be written or is damaged.
  """
  if in_bucket(root):
    raise ConfigError(f'latents are stored on this machine, and data.dir={root} is a bucket')
  # The version of this format is part of the name.
  state = hashlib.blake2b(f'1 {fingerprint} {stage.digest}'.encode(), digest_size=8)
  for split, source in splits.items():
    number = min(len(source), SAMPLED)
    x = source.gather(np.arange(number) * len(source) // max(number, 1))['x']
    state.update(f'{split} {len(source)}'.encode() + np.ascontiguousarray(x).tobytes())
  folder = root / 'twofold' / 'latents' / f'{name}-{state.hexdigest()}'
  if not (folder / 'latents.json').exists():
    try:
      _write(splits, stage, folder)
    except ConfigError:
      raise
    except (OSError, ValueError) as error:
      # Another process may have been faster.
      if not (folder / 'latents.json').exists():
        raise ConfigError(f'cannot store latents in {folder}: {error}') from error
  about = read_json(folder / 'latents.json')
  return Encoded({split: _read(folder, split) for split in splits}, about['deviation'])


def _read(folder: pathlib.Path, split: str) -> GivenSource:
  """A split, which the operating system reads from disk as it is needed."""
  names = {'x': f'{split}.npy', 'label': f'{split}-label.npy'}
  try:
    arrays = {
      key: np.load(folder / name, mmap_mode='r', allow_pickle=False)
      for key, name in names.items()
      if key == 'x' or (folder / name).exists()
    }
  except (OSError, ValueError) as error:
    raise ConfigError(f'{folder} is damaged; delete it to encode the images again') from error
  return GivenSource(arrays)


def _write(splits: Mapping[str, Source], stage: FirstStage, folder: pathlib.Path) -> None:
  arrays, labels = {}, {}
  for split, source in splits.items():
    parts, classes = [], []
    for x, label in reported(_batches(source), -(-len(source) // BATCH), f'encoding {split}'):
      parts.append(in_batches(stage.encode, x))
      classes.append(label)
    arrays[split] = np.concatenate(parts).astype(
      token_dtype(stage.levels) if stage.levels else np.float32
    )
    if classes and classes[0] is not None:
      labels[split] = np.concatenate(classes)
  deviation = 1.0
  if stage.levels:
    _report_codes(arrays['train'], stage)
  else:
    deviation = float(arrays['train'].std(dtype=np.float64))
    # Channels and positions may differ although the images do not.
    spread = float(np.sqrt(arrays['train'].var(axis=0, dtype=np.float64).mean()))
    if not (math.isfinite(deviation) and spread > MIN_DEVIATION):
      raise ConfigError(
        f'the latents of {stage.name} have no variance (deviation over images {spread:.2g}): its '
        'encoder ignores the images; train it with a smaller objective.beta, or name another first '
        'stage'
      )
    arrays = {split: (x / deviation).astype(np.float32) for split, x in arrays.items()}
    logging.info('latents of %s: %s, deviation %.4g', stage.name, stage.shape, deviation)
  with atomic_folder(folder) as temporary:
    for split, x in arrays.items():
      np.save(temporary / f'{split}.npy', x, allow_pickle=False)
      if split in labels:
        np.save(temporary / f'{split}-label.npy', labels[split], allow_pickle=False)
    about = {'deviation': deviation, 'first_stage': stage.digest}
    (temporary / 'latents.json').write_text(json.dumps(about))


def _report_codes(codes: Num[np.ndarray, 'num rows columns 1'], stage: FirstStage) -> None:
  """Logs how many codes are used. Raises ConfigError if all images have the same."""
  counts = np.bincount(codes.reshape(-1), minlength=stage.levels)
  share = counts[counts > 0] / counts.sum()
  perplexity = float(np.exp(-(share * np.log(share)).sum()))
  if (codes == codes[:1]).all():
    raise ConfigError(
      f'the latents of {stage.name} have no variance: all images have the same codes, '
      f'{len(share)} of {stage.levels}; train it with a larger latent.codebook or a smaller '
      'learning rate, or name another first stage'
    )
  logging.info(
    'codes of %s: %d of %d used, perplexity %.1f',
    *(stage.name, len(share), stage.levels, perplexity),
  )


def _batches(source: Source) -> Iterator[tuple[np.ndarray, np.ndarray | None]]:
  for start in range(0, len(source), BATCH):
    examples = source.gather(np.arange(start, min(start + BATCH, len(source))))
    yield examples['x'], examples.get('label')
