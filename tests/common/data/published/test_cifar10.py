"""CIFAR-10 from every form in which it is published or passed on: always the same dataset."""

import io
import pathlib
import tarfile
import zipfile

import numpy as np
import pytest
from PIL import Image

from common.config import ConfigError
from common.data import pipeline, preparation
from common.data.builders import BUILDERS
from common.data.builders.published import cifar10

PER_CLASS = {'train': 5, 'test': 2}
NAMES = cifar10.CLASS_NAMES


def images() -> dict[str, cifar10.Split]:
  """A few images of each class, in a random order."""
  rng = np.random.default_rng(0)
  splits = {}
  for split, number in PER_CLASS.items():
    label = rng.permutation(np.repeat(np.arange(10), number))
    splits[split] = (rng.integers(0, 256, (len(label), 32, 32, 3), np.uint8), label)
  return splits


def binaries() -> dict[str, bytes]:
  """The files of the binary version."""
  files = {}
  for split, names in cifar10.BINARIES.items():
    x, label = images()[split]
    # By hand: the label, then all red values row by row, all green, all blue.
    records = [
      bytes([k]) + b''.join(i[..., c].tobytes() for c in range(3))
      for i, k in zip(x, label, strict=True)
    ]
    size = len(records) // len(names)
    files |= {n: b''.join(records[i * size : (i + 1) * size]) for i, n in enumerate(names)}
  return files


def png(image: np.ndarray) -> bytes:
  buffer = io.BytesIO()
  Image.fromarray(image).save(buffer, 'PNG')
  return buffer.getvalue()


def pngs() -> dict[str, bytes]:
  """The images as SPLIT/CLASS/NAME.png."""
  splits = images().items()
  return {
    f'{split}/{NAMES[label]}/{i}.png': png(image)
    for split, (x, labels) in splits
    for i, (image, label) in enumerate(zip(x, labels, strict=True))
  }


def write_folder(path: pathlib.Path, files: dict[str, bytes]) -> pathlib.Path:
  for name, data in files.items():
    (path / name).parent.mkdir(parents=True, exist_ok=True)
    (path / name).write_bytes(data)
  return path


def write_tar(path: pathlib.Path, files: dict[str, bytes]) -> pathlib.Path:
  path.parent.mkdir(parents=True, exist_ok=True)
  with tarfile.open(path, 'w:gz') as archive:
    for name, data in files.items():
      member = tarfile.TarInfo(f'cifar-10-batches/{name}')
      member.size = len(data)
      archive.addfile(member, io.BytesIO(data))
  return path


def write_zip(path: pathlib.Path, files: dict[str, bytes]) -> pathlib.Path:
  with zipfile.ZipFile(path, 'w') as archive:
    for name, data in files.items():
      archive.writestr(name, data)
  return path


@pytest.fixture(autouse=True)
def small(monkeypatch):
  """The builder expects the images of this test."""
  builder = BUILDERS['cifar10']
  monkeypatch.setattr(builder, 'per_class', PER_CLASS)
  monkeypatch.setattr(builder, 'num_validation', 8)
  digests = {split: cifar10.split_digest(*arrays) for split, arrays in images().items()}
  monkeypatch.setattr(builder, 'digests', digests)


def load(tmp_path, source) -> pipeline.Data:
  return pipeline.load({'name': 'cifar10', 'dir': str(tmp_path / 'data'), 'source': str(source)})


FORMS = {
  'binaries in a folder': lambda path: write_folder(path / 'raw', binaries()),
  'the archive of binaries': lambda path: write_tar(path / 'x.tar.gz', binaries()),
  'a folder that holds the archive': lambda path: (
    write_tar(path / 'raw' / cifar10.ARCHIVE, binaries()).parent
  ),
  'class folders': lambda path: write_folder(path / 'raw', pngs()),
  'a zip of images, with hidden files': lambda path: write_zip(
    path / 'x.zip', {f'top/{k}': v for k, v in pngs().items()} | {'top/train/cat/._0.png': b'mac'}
  ),
}


@pytest.mark.parametrize('form', FORMS)
def test_every_form_leads_to_the_same_dataset(form, tmp_path):
  data = load(tmp_path, FORMS[form](tmp_path))
  assert (data.spec.shape, data.spec.class_names) == ((32, 32, 3), NAMES)
  assert {k: len(v) for k, v in data.splits.items()} == {'train': 42, 'validation': 8, 'test': 20}
  found = [source.gather(np.arange(len(source))) for source in data.splits.values()]
  held = {x.tobytes(): k for part in found for x, k in zip(part['x'], part['label'], strict=True)}
  given = images().values()
  assert held == {i.tobytes(): k for x, label in given for i, k in zip(x, label, strict=True)}
  # Of this form and of all others: the order on disk, and with it the order of training.
  assert pipeline.fingerprint(data) == '940a3880edc65cf84f0f3d78747a9f31'


def changed(files: dict[str, bytes], name: str, data: bytes) -> dict[str, bytes]:
  assert name in files
  return files | {name: data}


def flipped(files: dict[str, bytes]) -> dict[str, bytes]:
  data = bytearray(files['test_batch.bin'])
  data[100] ^= 1
  return files | {'test_batch.bin': bytes(data)}


def without(files: dict[str, bytes], name: str) -> dict[str, bytes]:
  return {k: v for k, v in files.items() if k != name}


FIRST = f'train/{NAMES[images()["train"][1][0]]}/0.png'
LARGE = png(np.zeros((40, 32, 3), np.uint8))


@pytest.mark.parametrize(
  ('write', 'name', 'files', 'message'),
  [
    (
      write_folder,
      'raw',
      flipped(binaries()),
      'raw is not cifar10: the pixels or labels of its test',
    ),
    (
      write_zip,
      'x.zip',
      without(pngs(), FIRST),
      'its train split must have 5 images of each class',
    ),
    (
      write_tar,
      'x.tgz',
      without(binaries(), 'data_batch_3.bin'),
      'x.tgz lacks data_batch_3.bin; it',
    ),
    (
      write_folder,
      'raw',
      changed(binaries(), 'data_batch_2.bin', b'\1' * 3000),
      'must hold records of 3,073 bytes (label, red, green, blue), got 3,000 bytes',
    ),
    (
      write_folder,
      'raw',
      changed(binaries(), 'data_batch_2.bin', b'\xff' * 3073),
      'data_batch_2.bin must have labels from 0 to 9, got 255',
    ),
    (write_folder, 'raw', {'data_batch_1': b'pickle'}, 'raw holds the python version of CIFAR-10'),
    (write_tar, 'x.tgz', {'data_batch_1': b'pickle'}, 'x.tgz holds the python version of CIFAR-10'),
    (write_zip, 'x.zip', {'train/cow/1.png': b''}, 'train/cow/1.png must be SPLIT/CLASS/NAME.png'),
    (write_zip, 'x.zip', {'../1.png': b''}, '../1.png must be SPLIT/CLASS/NAME.png'),
    (
      write_zip,
      'x.zip',
      {FIRST: pngs()[FIRST]},
      'x.zip has no images of the split test; it must be',
    ),
    (write_zip, 'x.zip', {FIRST: bytes(2**17)}, 'of 32×32 pixels, got 131,072 bytes'),
    (
      write_zip,
      'x.zip',
      {FIRST: LARGE},
      f'{FIRST} must be an RGB image of 32×32 pixels: got mode RGB',
    ),
    (write_zip, 'x.zip', {FIRST: b'text'}, f'{FIRST} must be an RGB image of 32×32 pixels: cannot'),
    (
      write_folder,
      'raw',
      {'cifar.mat': b'matlab'},
      "raw' must be cifar-10-binary.tar.gz, a folder of",
    ),
  ],
)
def test_other_contents_are_refused_in_one_line(tmp_path, write, name, files, message):
  with pytest.raises(ConfigError) as error:
    load(tmp_path, write(tmp_path / name, files))
  assert message in str(error.value) and '\n' not in str(error.value)


def test_damaged_archives_are_refused(tmp_path):
  for path in (write_tar(tmp_path / 'x.tgz', binaries()), write_zip(tmp_path / 'x.zip', pngs())):
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ConfigError, match=rf'cannot read .*{path.name}: |{path.name}. must be'):
      load(tmp_path, path)
  with pytest.raises(ConfigError, match='but it does not exist'):
    load(tmp_path, tmp_path / 'nothing')


def test_it_is_downloaded_from_its_home_and_a_run_names_the_command(tmp_path, monkeypatch):
  settings = {'name': 'cifar10', 'dir': str(tmp_path / 'data')}
  with pytest.raises(ConfigError, match=r'run: twofold prepare_data --dataset=cifar1'):
    pipeline.load(settings)
  home = tmp_path / 'home' / cifar10.ARCHIVE
  monkeypatch.setattr(cifar10, 'HOME', home.as_uri())
  with pytest.raises(ConfigError, match=r'cannot get cifar10: .* cannot be downloaded .*--source'):
    preparation.prepare(settings, network=True)
  write_tar(home, binaries())
  preparation.prepare(settings, network=True)
  assert pipeline.load(settings).spec.num_train == 42


def test_files_in_the_folder_of_downloads_are_found(tmp_path):
  write_folder(tmp_path / 'data' / 'downloads' / 'manual' / 'cifar10', binaries())
  assert pipeline.load({'name': 'cifar10', 'dir': str(tmp_path / 'data')}).spec.num_train == 42
