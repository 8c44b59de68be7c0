"""Tokenizers: exact both ways, kept as JSON, refused in one line."""

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


def test_bytes_are_utf8_and_half_a_character_is_shown():
  made = build(tokenizer='bytes')
  assert made.encode('é').tolist() == [0xC3, 0xA9]
  assert made.decode([0xC3]) == '\N{REPLACEMENT CHARACTER}'
  assert (made.vocabulary, made.separator) == (256, 0)


def test_characters_are_in_order_with_a_separator_where_there_are_documents():
  one, two = build(['cab\n']), build(['cab', 'bad'])
  assert (one.characters, one.separator) == ('\nabc', None)
  assert (two.characters, two.separator) == ('\0abcd', 0)
  assert one.encode('cab').tolist() == [3, 1, 2]


def test_trained_pairs_are_the_frequent_ones(bpe):
  assert bpe.vocabulary == 300
  assert len(bpe.encode(TEXTS[0])) < 0.5 * len(TEXTS[0])
  assert bpe.decode([bpe.separator]) == tokenizers.END
  assert bpe.encode(' be').size == 1


@pytest.mark.parametrize('names', tokenizers.FILES)
def test_gpt2_files_under_either_name(bpe, tmp_path, names):
  write_files(bpe, tmp_path, names)
  made = build(tokenizer='gpt2', tokenizer_files=str(tmp_path))
  for text in TEXTS:
    np.testing.assert_array_equal(made.encode(text), bpe.encode(text))
    assert made.decode(made.encode(text)) == text
  assert (made.vocabulary, made.separator) == (bpe.vocabulary, bpe.separator)


def write_files(bpe, folder, names=tokenizers.FILES[0]):
  model = json.loads(bpe.serialized)['model']
  (folder / names[0]).write_text(json.dumps(model['vocab']))
  merges = [pair if isinstance(pair, str) else ' '.join(pair) for pair in model['merges']]
  (folder / names[1]).write_text('\n'.join(['#version: 0.2', *merges]) + '\n')


def test_a_tokenizer_json_is_taken_as_it_is(bpe, tmp_path):
  (tmp_path / 'tokenizer.json').write_text(bpe.serialized)
  assert build(tokenizer='gpt2', tokenizer_files=str(tmp_path)) == bpe


@pytest.mark.peers
def test_transformers_reads_the_same_files_alike(bpe, tmp_path):
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
    (dict(tokenizer='bpe', vocabulary=9), 'data.vocabulary=9: byte pairs begin with 257 tokens'),
    (dict(tokenizer='gpt2'), "data.tokenizer='gpt2' needs data.tokenizer_files"),
    (dict(tokenizer='gpt2', tokenizer_files='/nowhere'), 'has neither vocab.json and merges.txt'),
  ],
)
def test_wrong_settings_are_refused(settings, message):
  with pytest.raises(ConfigError, match=message) as error:
    build(**settings)
  assert '\n' not in str(error.value)


def test_broken_files_are_refused(tmp_path):
  pytest.importorskip('tokenizers')
  for name in tokenizers.FILES[0]:
    (tmp_path / name).write_text('{')
  with pytest.raises(ConfigError, match='are no byte pairs'):
    build(tokenizer='gpt2', tokenizer_files=str(tmp_path))
  (tmp_path / 'tokenizer.json').write_text('{}')
  with pytest.raises(ConfigError, match=r'no tokenizer\.json'):
    build(tokenizer='gpt2', tokenizer_files=str(tmp_path)).encode('a')


def test_without_the_library_one_line_says_how_to_get_it(monkeypatch):
  monkeypatch.setitem(sys.modules, 'tokenizers', None)
  with pytest.raises(ConfigError, match=r"pip install 'twofold\[text\]'"):
    build(tokenizer='bpe')
  assert build(tokenizer='bytes').decode([97]) == 'a'


def test_prompts():
  made = build(['the quick\n'])
  tokens = tokenizers.prompt_tokens(made, 'the', context=8)
  assert made.decode(tokens) == 'the'
  for prompt, message in [
    ('', 'the prompt is empty'),
    ('thé', r"character 'é' is not among the 10 that this vocabulary has: '\\n cehikqtu'"),
    ('the quick', 'the prompt has 9 tokens; 7 leave room'),
  ]:
    with pytest.raises(ConfigError, match=message):
      tokenizers.prompt_tokens(made, prompt, context=8)


def test_a_text_opens_behind_a_separator_or_a_new_line(bpe):
  assert tokenizers.opening(build(['b\na'])) == 0
  assert tokenizers.opening(build(['ba', 'c'])) == 0
  assert tokenizers.opening(build(['ba'])) == 0
  assert tokenizers.opening(bpe) == bpe.separator
  assert tokenizers.opening(build(tokenizer='bytes')) == 0
