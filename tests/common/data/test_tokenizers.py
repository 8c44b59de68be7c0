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


def test_broken_files_are_refused(tmp_path):
  pytest.importorskip('tokenizers')
  for name in tokenizers.GPT2_FILES[0]:
    (tmp_path / name).write_text('{')
  with pytest.raises(ConfigError, match=r'cannot read .*vocab.json and .*merges.txt as BPE files'):
    build(tokenizer='gpt2', tokenizer_files=str(tmp_path))
  (tmp_path / 'tokenizer.json').write_text('{}')
  with pytest.raises(ConfigError, match=r'as a tokenizer\.json of'):
    build(tokenizer='gpt2', tokenizer_files=str(tmp_path)).encode('a')


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


def test_the_start_token_is_the_separator_or_a_line_break(bpe):
  assert build(['b\na']).start_token == 0
  assert build(['ba', 'c']).start_token == 0
  assert build(['ba']).start_token == 0
  assert bpe.start_token == bpe.separator
  assert build(tokenizer='bytes').start_token == 0
