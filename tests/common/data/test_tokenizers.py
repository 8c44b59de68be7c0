"""Tokenizers: decoding is exact, JSON is complete, wrong settings are refused in one line."""

import json
import sys

import numpy as np
import pytest

from common.config import ConfigError
from common.data import tokenizers

TEXTS = ['to be, or not to be:\nthat is the question. ' * 20, 'naïve café — 日本 🙂 to be\n' * 5]


def build(texts=TEXTS, **settings):
  return tokenizers.build_tokenizer(settings, texts)


@pytest.fixture(scope='module')
def bpe():
  pytest.importorskip('tokenizers')
  return build(tokenizer='bpe', vocabulary=300)


@pytest.mark.parametrize('name', ['bytes', 'characters', 'bpe'])
def test_decoding_undoes_encoding_and_json_keeps_the_tokenizer(name):
  if name == 'bpe':
    pytest.importorskip('tokenizers')
  made = build(tokenizer=name, vocabulary=300)
  again = tokenizers.from_json(tokenizers.to_json(made))
  assert again == made and hash(again) == hash(made)
  for text in [*TEXTS, ' be', 'to']:
    tokens = made.encode(text)
    assert made.decode(tokens) == text
    assert 0 <= tokens.min() <= tokens.max() < made.vocabulary
    np.testing.assert_array_equal(again.encode(text), tokens)


def test_bytes_are_utf8_and_half_a_character_is_replaced():
  made = build(tokenizer='bytes')
  assert made.encode('é').tolist() == [0xC3, 0xA9]
  assert made.decode([0xC3]) == '\N{REPLACEMENT CHARACTER}'
  assert (made.vocabulary, made.separator) == (256, 0)


def test_characters_are_sorted_and_several_documents_add_a_separator():
  one, two = build(['cab\n']), build(['cab', 'bad'])
  assert (one.characters, one.separator) == ('\nabc', None)
  assert (two.characters, two.separator) == ('\0abcd', 0)
  assert one.encode('cab').tolist() == [3, 1, 2]


def test_trained_pairs_are_frequent_ones(bpe):
  assert bpe.vocabulary == 300
  assert len(bpe.encode(TEXTS[0])) < 0.5 * len(TEXTS[0])
  assert bpe.decode([bpe.separator]) == tokenizers.END_OF_TEXT
  assert bpe.encode(' be').size == 1


@pytest.mark.parametrize('names', tokenizers.GPT2_FILES)
def test_gpt2_files_may_have_either_name(bpe, tmp_path, names):
  write_files(bpe, tmp_path, names)
  made = build(tokenizer='gpt2', tokenizer_files=str(tmp_path))
  for text in TEXTS:
    np.testing.assert_array_equal(made.encode(text), bpe.encode(text))
    assert made.decode(made.encode(text)) == text
  assert (made.vocabulary, made.separator) == (bpe.vocabulary, bpe.separator)


def write_files(bpe, folder, names=tokenizers.GPT2_FILES[0]):
  model = json.loads(bpe.serialized)['model']
  (folder / names[0]).write_text(json.dumps(model['vocab']))
  merges = [pair if isinstance(pair, str) else ' '.join(pair) for pair in model['merges']]
  (folder / names[1]).write_text('\n'.join(['#version: 0.2', *merges]) + '\n')


def test_a_tokenizer_json_is_used_unchanged(bpe, tmp_path):
  (tmp_path / 'tokenizer.json').write_text(bpe.serialized)
  assert build(tokenizer='gpt2', tokenizer_files=str(tmp_path)) == bpe


@pytest.mark.peers
def test_transformers_gives_the_same_tokens_from_the_same_files(bpe, tmp_path):
  transformers = pytest.importorskip('transformers')
  write_files(bpe, tmp_path)
  peer = transformers.GPT2Tokenizer(
    vocab=str(tmp_path / 'vocab.json'), merges=str(tmp_path / 'merges.txt')
  )
  made = build(tokenizer='gpt2', tokenizer_files=str(tmp_path))
  for text in TEXTS:
    assert made.encode(text).tolist() == peer(text)['input_ids']


@pytest.mark.parametrize(
  ('settings', 'message'),
  [
    (dict(tokenizer='byte'), "unknown data.tokenizer 'byte'; did you mean 'bytes'"),
    (dict(tokenizer='bpe', vocabulary=10**9), 'data.vocabulary has 1,000,000,000'),
    (
      dict(
        texts=[''.join(map(chr, range(0x4000, 0xD000))), ''.join(map(chr, range(0x20000, 0x28000)))]
      ),
      'must have 1 to 65,536 tokens, but that of the text has 69,633',
    ),
    (dict(tokenizer='bpe', vocabulary=9), 'data.vocabulary must be at least 257 for BPE .*, got 9'),
    (dict(tokenizer='gpt2'), "data.tokenizer='gpt2' needs data.tokenizer_files"),
    (
      dict(tokenizer='gpt2', tokenizer_files='/nowhere'),
      "data.tokenizer_files must be a folder with .* vocab.json and merges.txt, .*'/nowhere'",
    ),
  ],
)
def test_wrong_settings_are_refused(settings, message):
  with pytest.raises(ConfigError, match=message) as error:
    build(**settings)
  assert '\n' not in str(error.value)


def test_broken_files_are_refused(bpe, tmp_path):
  vocabulary, merges = (tmp_path / name for name in tokenizers.GPT2_FILES[0])
  write_files(bpe, tmp_path)
  ids = json.loads(vocabulary.read_text())
  for text, message in [
    ('{', r'vocab\.json cannot be read as JSON'),
    ('[]', r'vocab\.json must hold a JSON object, got a list'),
    (json.dumps(ids | {'a': 'b'}), r'vocab\.json must map each token to its id, a whole number'),
    (json.dumps(ids | {'a': ids['b']}), r'vocab\.json has the same id for several tokens'),
    (
      json.dumps(ids | {'more': 10**10}),
      r'1 to 1,048,576 tokens, .*vocab\.json has 10,000,000,001',
    ),
    (json.dumps({k: v for k, v in ids.items() if k != 'a'}), "256 bytes; it lacks 1, such as 'a'"),
  ]:
    vocabulary.write_text(text)
    with pytest.raises(ConfigError, match=message):
      build(tokenizer='gpt2', tokenizer_files=str(tmp_path))
  vocabulary.write_text(json.dumps(ids))
  for line in ('a', 'a b c', 'nothing of it'):
    merges.write_text(f'#version: 0.2\n{line}\n')
    with pytest.raises(ConfigError, match=r'merges\.txt, line 2: .* must be two tokens of vocab'):
      build(tokenizer='gpt2', tokenizer_files=str(tmp_path))
  merges.write_bytes(b'\xff')
  with pytest.raises(ConfigError, match=r'merges\.txt cannot be read as text'):
    build(tokenizer='gpt2', tokenizer_files=str(tmp_path))
  for text in (b'{}', b'[', b'\xff'):
    (tmp_path / 'tokenizer.json').write_bytes(text)
    with pytest.raises(ConfigError, match=r'tokenizer\.json: '):
      build(tokenizer='gpt2', tokenizer_files=str(tmp_path))


def test_a_tokenizer_json_neither_cuts_nor_fills_up_a_text_and_may_leave_ids_out(bpe, tmp_path):
  plain = json.loads(bpe.serialized)
  cut = {'direction': 'Right', 'max_length': 4, 'strategy': 'LongestFirst', 'stride': 0}
  filled = {'strategy': {'Fixed': 999}, 'direction': 'Right', 'pad_to_multiple_of': None}
  filled |= {'pad_id': 0, 'pad_type_id': 0, 'pad_token': 'a'}
  model = plain['model']
  gap = model | {'vocab': model['vocab'] | {'zz': 900}}
  for change, vocabulary in [
    ({'truncation': cut, 'padding': filled}, bpe.vocabulary),
    ({'model': gap}, 901),
  ]:
    (tmp_path / 'tokenizer.json').write_text(json.dumps(plain | change))
    made = build(tokenizer='gpt2', tokenizer_files=str(tmp_path))
    assert made.vocabulary == vocabulary
    np.testing.assert_array_equal(made.encode(TEXTS[0]), bpe.encode(TEXTS[0]))
  (tmp_path / 'tokenizer.json').write_text(
    json.dumps(plain | {'model': model | {'vocab': model['vocab'] | {'zz': 10**9}}})
  )
  with pytest.raises(ConfigError, match=r'1 to 1,048,576 tokens, .* has 1,000,000,001'):
    build(tokenizer='gpt2', tokenizer_files=str(tmp_path))


@pytest.mark.parametrize('special', [True, False])
def test_a_separator_spelled_out_in_a_text_is_text(special, bpe, tmp_path):
  fields = json.loads(bpe.serialized)
  fields['added_tokens'][0]['special'] = special
  (tmp_path / 'tokenizer.json').write_text(json.dumps(fields))
  made = build(tokenizer='gpt2', tokenizer_files=str(tmp_path))
  text = f'to be{tokenizers.END_OF_TEXT}or not'
  tokens = made.encode(text)
  assert made.separator == bpe.separator and made.separator not in tokens
  assert made.decode(tokens) == text


@pytest.mark.parametrize('text', ['', '[]', '{}', '{"kind": "bytes", "more": "a"}', '{"kind": 3}'])
def test_a_stored_tokenizer_that_is_broken_is_refused(text):
  with pytest.raises(ConfigError, match='a tokenizer stored as JSON is broken'):
    tokenizers.from_json(text)


def test_without_the_library_one_line_says_how_to_get_it(monkeypatch):
  monkeypatch.setitem(sys.modules, 'tokenizers', None)
  with pytest.raises(ConfigError, match=r"pip install -e '.\[text\]'"):
    build(tokenizer='bpe')
  assert build(tokenizer='bytes').decode([97]) == 'a'


def test_prompts():
  made = build(['the quick\n'])
  tokens = tokenizers.prompt_tokens(made, 'the', context=8)
  assert made.decode(tokens) == 'the'
  for prompt, message in [
    ('', 'the prompt is empty'),
    ('thé', r"character 'é' is not in the vocabulary of 10 characters: '\\n cehikqtu'"),
    (
      'the quick',
      'the prompt must have at most 7 tokens, .* the 8 of .*; got 9: shorten it, or add --slide',
    ),
  ]:
    with pytest.raises(ConfigError, match=message):
      tokenizers.prompt_tokens(made, prompt, context=8)
