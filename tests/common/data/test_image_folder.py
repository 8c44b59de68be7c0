"""A folder of images: classes, sizes, modes, broken files, and changes of the folder."""

import os

import numpy as np
import pytest
from PIL import Image

from common.config import ConfigError
from common.data import pipeline, preparation
from common.data.builders import image_folder


def save(path, array: np.ndarray, **options) -> None:
  path.parent.mkdir(parents=True, exist_ok=True)
  Image.fromarray(array).save(path, **options)


def random_image(seed: int, *shape: int) -> np.ndarray:
  return np.random.default_rng(seed).integers(0, 256, shape, np.uint8)


@pytest.fixture
def pets(tmp_path):
  """30 images of 6×5 pixels in two classes."""
  for i in range(30):
    save(tmp_path / 'pets' / ('cat', 'dog')[i % 2] / f'{i}.png', random_image(i, 6, 5, 3))
  return tmp_path / 'pets'


@pytest.fixture
def settings(pets, tmp_path) -> dict:
  return {'name': 'image_folder', 'dir': str(tmp_path / 'data'), 'source': str(pets)}


def contents(data: pipeline.Data) -> dict[bytes, tuple[str, int]]:
  """The split and label of every image."""
  found = {}
  for split, source in data.splits.items():
    examples = source.gather(np.arange(len(source)))
    labels = examples.get('label', np.full(len(source), -1))
    found |= {x.tobytes(): (split, k) for x, k in zip(examples['x'], labels.tolist(), strict=True)}
  return found


def test_subfolders_are_classes_and_images_are_kept_bit_for_bit(settings):
  data = pipeline.load(settings)
  assert (data.spec.shape, data.spec.class_names) == ((6, 5, 3), ('cat', 'dog'))
  found = contents(data)
  assert len(found) == 30
  assert all(found[random_image(i, 6, 5, 3).tobytes()][1] == i % 2 for i in range(30))
  assert data.spec.num_train == len(data.splits['train']) < 30


def test_images_without_subfolders_have_no_classes(tmp_path):
  for i in range(8):
    save(tmp_path / 'flat' / f'{i}.png', random_image(i, 4, 4))
  (tmp_path / 'flat' / 'README.txt').write_text('no image')
  (tmp_path / 'flat' / '.hidden.png').write_text('no image')
  data = pipeline.load(
    {'name': 'image_folder', 'dir': str(tmp_path / 'data'), 'source': str(tmp_path / 'flat')}
  )
  assert (data.spec.shape, data.spec.num_classes) == ((4, 4, 1), 0)
  assert len(contents(data)) == 8
  assert 'label' not in pipeline.train_batch(data, 0, 0, 4)


def test_an_added_file_is_noticed_and_does_not_move_others(settings, pets):
  before = contents(pipeline.load(settings))
  save(pets / 'dog' / 'new.png', random_image(100, 6, 5, 3))
  after = contents(pipeline.load(settings))
  assert len(after) == 31
  # Where a split of so small a set would be empty, an example may have been moved to fill it.
  assert sum(before[x] == after[x] for x in before) >= 28


def test_a_file_that_changed_is_read_again(settings, pets):
  first = contents(pipeline.load(settings))
  path = pets / 'cat' / '0.png'
  stat = path.stat()
  save(path, random_image(200, 6, 5, 3))
  os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns + 1))
  second = contents(pipeline.load(settings))
  assert set(second) - set(first) == {random_image(200, 6, 5, 3).tobytes()}


def test_an_unchanged_folder_is_prepared_once(settings, monkeypatch):
  preparation.prepare(settings, network=False)
  monkeypatch.setattr(image_folder, 'decode', None)
  monkeypatch.setattr(image_folder, 'inspect_files', None)
  assert len(pipeline.load(settings).splits) == 3


def test_image_size_crops_the_central_square_and_resizes_it(tmp_path):
  """The left and right quarters of the images are white; only the grey between them is kept."""
  for i in range(5):
    image = np.full((8, 16, 3), 255, np.uint8)
    image[:, 4:12] = 10 * i
    save(tmp_path / 'wide' / f'{i}.png', image)
  settings = {'name': 'image_folder', 'dir': str(tmp_path / 'a'), 'source': str(tmp_path / 'wide')}
  data = pipeline.load(settings | {'image_size': 4})
  assert data.spec.shape == (4, 4, 3)
  expected = {np.full((4, 4, 3), 10 * i, np.uint8).tobytes() for i in range(5)}
  assert set(contents(data)) == expected
  assert pipeline.load(settings).spec.shape == (8, 16, 3)


def test_images_of_different_sizes_need_image_size(settings, pets):
  save(pets / 'cat' / 'zz.png', random_image(0, 7, 9, 3))
  with pytest.raises(
    ConfigError, match=r'one size, got 5×6 \(.*\) and 9×7 \(zz.png\); set data.image_size'
  ):
    pipeline.load(settings)
  assert pipeline.load(settings | {'image_size': 5}).spec.shape == (5, 5, 3)


def test_one_colour_image_makes_three_channels(settings, pets):
  for i in range(30):
    save(pets / ('cat', 'dog')[i % 2] / f'{i}.png', random_image(i, 6, 5))
  save(pets / 'cat' / 'zz.png', random_image(1, 6, 5, 3))
  found = contents(pipeline.load(settings))
  assert np.repeat(random_image(0, 6, 5)[..., None], 3, -1).tobytes() in found
  assert random_image(1, 6, 5, 3).tobytes() in found


def test_transparency_becomes_white(tmp_path):
  pixel = np.array([[[0, 0, 0, 0], [10, 20, 30, 255]]], np.uint8)
  save(tmp_path / 'a.png', pixel)
  decoded = image_folder.decode((tmp_path / 'a.png').read_bytes(), 3, 0)
  assert decoded.tolist() == [[[255, 255, 255], [10, 20, 30]]]
  save(tmp_path / 'b.png', np.array([[[0, 0], [77, 255]]], np.uint8))
  assert image_folder.decode((tmp_path / 'b.png').read_bytes(), 1, 0).tolist() == [[[255], [77]]]


def test_images_are_turned_upright(tmp_path):
  exif = Image.Exif()
  exif[0x0112] = 6  # orientation: to be rotated by 90° clockwise
  for i in range(3):
    save(tmp_path / 'up' / f'{i}.png', random_image(i, 4, 9), exif=exif)
  data = pipeline.load(
    {'name': 'image_folder', 'dir': str(tmp_path / 'data'), 'source': str(tmp_path / 'up')}
  )
  assert data.spec.shape == (9, 4, 1)
  assert {np.rot90(random_image(i, 4, 9), -1).tobytes() for i in range(3)} == set(contents(data))


@pytest.fixture
def broken(pets):
  """A file that is not an image, one that is cut short, and an empty one."""
  (pets / 'cat' / 'text.png').write_text('no image')
  whole = (pets / 'dog' / '1.png').read_bytes()
  (pets / 'dog' / 'short.png').write_bytes(whole[: len(whole) // 2])
  (pets / 'dog' / 'empty.jpg').touch()
  return ('text.png', 'short.png', 'empty.jpg')


def test_broken_files_are_refused_and_named(settings, broken):
  with pytest.raises(ConfigError) as error:
    pipeline.load(settings)
  message = str(error.value)
  assert '\n' not in message
  assert all(name in message for name in broken)
  assert message.endswith("; repair or remove them, or set data.broken='skip' to leave them out")


def test_broken_files_are_skipped_and_counted(settings, broken):
  settings = settings | {'broken': 'skip'}
  folder = preparation.prepare(settings, network=False)
  (note,) = preparation.open_prepared(folder).info.metadata['notes']
  assert note.startswith('3 broken files skipped: ')
  assert all(name in note for name in broken)
  assert len(contents(pipeline.load(settings))) == 30


def test_many_broken_files_are_not_all_named(settings, pets):
  for i in range(9):
    (pets / 'cat' / f'text{i}.png').write_text('no image')
  with pytest.raises(ConfigError, match=r'text4.png \(.*\); 4 more; repair or remove'):
    pipeline.load(settings)


def test_skipping_is_refused_if_every_file_is_broken(tmp_path):
  (tmp_path / 'bad').mkdir()
  (tmp_path / 'bad' / 'a.png').write_text('no image')
  settings = {'name': 'image_folder', 'dir': str(tmp_path), 'source': str(tmp_path / 'bad')}
  with pytest.raises(ConfigError, match=r'none of the 1 images can be read: .*a.png'):
    pipeline.load(settings | {'broken': 'skip'})


def test_sixteen_bits_per_channel_are_refused(settings, pets):
  Image.fromarray(np.full((6, 5), 40_000, np.uint16)).save(pets / 'cat' / 'deep.png')
  with pytest.raises(
    ConfigError, match=r'deep.png \(its pixels must have 8 bits per channel, got mode I;16'
  ):
    pipeline.load(settings)


@pytest.mark.parametrize(
  ('files', 'message'),
  [
    ([], 'contains no images'),
    (
      ['a/b/c.png', 'a/b/d.png'],
      'must be stored as FOLDER/CLASS/IMAGE or FOLDER/IMAGE, got .*/a/b/[cd].png',
    ),
    (['a.png', 'b/c.png'], r'images both in itself \(a.png\) and in subfolders \(b/\)'),
    (['a.png', 'b.png'], 'at least 3 different examples, .*, got 1'),
  ],
)
def test_other_layouts_are_refused(tmp_path, files, message):
  (tmp_path / 'x').mkdir()
  for name in files:
    save(tmp_path / 'x' / name, random_image(0, 3, 3))
  with pytest.raises(ConfigError, match=message):
    pipeline.load({'name': 'image_folder', 'dir': str(tmp_path), 'source': str(tmp_path / 'x')})


@pytest.mark.parametrize(
  ('change', 'message'),
  [
    ({'source': ''}, 'needs data.source'),
    ({'source': '/nowhere'}, "data.source must be a folder of images, got '/nowhere'"),
    ({'image_size': -8}, 'data.image_size must be at least 0 .*, got -8'),
    ({'broken': 'ignore'}, "data.broken must be 'refuse' or 'skip', got 'ignore'"),
  ],
)
def test_invalid_settings_are_refused(settings, change, message):
  with pytest.raises(ConfigError, match=message):
    pipeline.load(settings | change)
