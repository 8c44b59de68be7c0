"""A folder of images: classes, sizes, modes, broken files, and changes of the folder."""

import os
import struct
import zlib

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


def chunk(name: bytes, data: bytes) -> bytes:
  return struct.pack('>I', len(data)) + name + data + struct.pack('>I', zlib.crc32(name + data))


def png(array: np.ndarray, kind: int, width: int = 0) -> bytes:
  """A PNG by hand, of 8 or 16 bits, of a kind that Pillow cannot write: 2 RGB, 4 grey and alpha."""
  bits = 8 * array.dtype.itemsize
  header = struct.pack('>IIBBBBB', width or array.shape[1], len(array), bits, kind, 0, 0, 0)
  rows = b''.join(b'\0' + row.astype(f'>u{bits // 8}').tobytes() for row in array)
  chunks = (b'IHDR', header), (b'IDAT', zlib.compress(rows)), (b'IEND', b'')
  return b'\x89PNG\r\n\x1a\n' + b''.join(chunk(*part) for part in chunks)


def tiff(array: np.ndarray) -> bytes:
  """A TIFF of RGB with 16 bits by hand: a header, 10 tags, the bits of the channels, the pixels."""
  height, width, _ = array.shape
  after = 8 + 2 + 10 * 12 + 4
  tags = [(256, 3, 1, width), (257, 3, 1, height), (258, 3, 3, after), (259, 3, 1, 1)]
  tags += [(262, 3, 1, 2), (273, 4, 1, after + 6), (277, 3, 1, 3), (278, 3, 1, height)]
  tags += [(279, 4, 1, array.nbytes), (284, 3, 1, 1)]
  entries = b''.join(struct.pack('<HHII', *tag) for tag in tags)
  start = b'II*\0' + struct.pack('<IH', 8, len(tags)) + entries + struct.pack('<I', 0)
  return start + struct.pack('<HHH', 16, 16, 16) + array.astype('<u2').tobytes()


DEEP = np.full((6, 5, 3), 40_000, np.uint16)


@pytest.mark.parametrize(
  ('name', 'data'),
  [
    ('grey.png', png(DEEP[..., 0], 0)),
    ('rgb.png', png(DEEP, 2)),
    ('alpha.png', png(DEEP[..., :2], 4)),
    ('rgb.tif', tiff(DEEP)),
    ('rgb.ppm', b'P6 5 6 65535 ' + DEEP.astype('>u2').tobytes()),
    ('grey.ppm', b'P5 5 6 65535 ' + DEEP[..., 0].astype('>u2').tobytes()),
  ],
  ids=['grey.png', 'rgb.png', 'alpha.png', 'rgb.tif', 'rgb.ppm', 'grey.ppm'],
)
def test_sixteen_bits_per_channel_are_refused(settings, pets, name, data):
  """Pillow reads most of these as images of 8 bits."""
  (pets / 'cat' / name).write_bytes(data)
  with pytest.raises(
    ConfigError, match=rf'{name} \(its pixels must have 8 bits per channel, got (16 bits|mode I)\)'
  ):
    pipeline.load(settings)


def test_grey_images_have_one_channel_in_every_mode(tmp_path):
  """Grey with alpha, a grey palette, and one bit."""
  grey = [random_image(i, 4, 4) for i in range(4)]
  alpha = np.stack([grey[0], np.full((4, 4), 255, np.uint8)], -1)
  folder = tmp_path / 'grey'
  save(folder / 'l.png', grey[0] // 2)
  (folder / 'la.png').write_bytes(png(alpha, 4))
  palette = Image.fromarray(grey[1] // 16, 'P')
  palette.putpalette([value for i in range(16) for value in (i, i, i)])
  palette.save(folder / 'p.png')
  Image.fromarray(grey[2] > 127).save(folder / 'one.png')
  settings = {'name': 'image_folder', 'dir': str(tmp_path / 'data'), 'source': str(folder)}
  data = pipeline.load(settings)
  expected = (grey[0] // 2, grey[0], grey[1] // 16, (grey[2] > 127) * np.uint8(255))
  assert data.spec.shape == (4, 4, 1) and contents(data).keys() == {x.tobytes() for x in expected}
  palette.putpalette([value for i in range(16) for value in (i, 0, i)])
  palette.save(folder / 'p.png')
  assert pipeline.load(settings).spec.shape == (4, 4, 3)


def notes_of(settings) -> list[str]:
  folder = preparation.prepare(settings, network=False)
  return list(preparation.open_prepared(folder).info.metadata['notes'])


def test_what_is_left_out_or_guessed_is_said(settings, pets):
  for name in ('a.heic', 'b.heic', 'c.TXT', 'd'):
    (pets / 'cat' / name).touch()
  frames = [Image.fromarray(random_image(i, 6, 5, 3)) for i in (50, 51)]
  frames[0].save(pets / 'dog' / 'moving.png', save_all=True, append_images=frames[1:])
  frames[0].convert('CMYK').save(pets / 'dog' / 'print.jpg')
  assert notes_of(settings) == [
    'left out 4 files that are no images by their endings: .heic 2, .txt 1, no ending 1',
    f'CMYK is converted without a colour profile: {pets}/dog/print.jpg',
    f'only the first of several frames is read: {pets}/dog/moving.png',
  ]
  assert random_image(50, 6, 5, 3).tobytes() in contents(pipeline.load(settings))


def test_a_folder_that_contains_itself_is_refused(settings, pets):
  """Two links to a folder within itself have 2^40 paths."""
  for name in ('a', 'b'):
    (pets / name).symlink_to('.')
  with pytest.raises(
    ConfigError, match=r'pets/[ab] is a link to a folder that contains it; remove'
  ):
    pipeline.load(settings)


def test_links_to_other_folders_are_followed(settings, pets, tmp_path):
  (pets / 'cat').rename(tmp_path / 'elsewhere')
  (pets / 'cat').symlink_to(tmp_path / 'elsewhere')
  assert len(contents(pipeline.load(settings))) == 30


def test_only_regular_files_of_bounded_size_are_read(settings, pets, monkeypatch):
  pipe = pets / 'cat' / 'pipe.png'
  os.mkfifo(pipe)
  with pytest.raises(ConfigError, match=r'pipe.png must be a regular file'):
    pipeline.load(settings)
  pipe.unlink()
  pipe.symlink_to('nothing.png')
  with pytest.raises(ConfigError, match=r'pipe.png must be a regular file or a link to one'):
    pipeline.load(settings)
  pipe.unlink()
  # A bomb: a small file whose header promises many pixels.
  (pets / 'cat' / 'bomb.png').write_bytes(png(np.zeros((9_500, 1), np.uint8), 0, width=9_500))
  with pytest.raises(
    ConfigError, match=r'bomb.png \(it must have at most 67,108,864 pixels, got 950'
  ):
    pipeline.load(settings)
  monkeypatch.setattr(image_folder, 'MAX_BYTES', 50)
  with pytest.raises(ConfigError, match=r'png \(a file must have at most 50 bytes, got '):
    pipeline.load(settings)


def test_a_name_that_is_not_utf8_is_shown(settings, pets):
  os.rename(pets / 'cat' / '0.png', os.fsencode(pets) + b'/cat/caf\xe9.png')
  with pytest.raises(ConfigError) as error:
    pipeline.load(settings)
  assert str(error.value) == (f"names must be UTF-8, got b'{pets}/cat/caf\\xe9.png'; rename it")


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
    ({'image_size': -8}, r'data.image_size must be in \[0, 8192\] .*, got -8'),
    ({'image_size': 2**20}, r'data.image_size must be in \[0, 8192\] .*, got 1048576'),
    ({'broken': 'ignore'}, "data.broken must be 'refuse' or 'skip', got 'ignore'"),
  ],
)
def test_invalid_settings_are_refused(settings, change, message):
  with pytest.raises(ConfigError, match=message):
    pipeline.load(settings | change)
