"""Dialogues are read, written by a template and packed so that answers alone count."""

import json

import numpy as np
import pytest

from common.config import ConfigError
from common.data import pipeline
from common.data.dialogues.packing import Encoded, encode, pack
from common.data.dialogues.reading import Dialogue, read_dialogues
from common.data.tokenizers import Bytes, Characters
from common.data.tokenizers.chat_template import ChatTemplate

PLAIN = ChatTemplate(
  '{% for m in messages %}{{ m.role[0] }}:{{ m.content }}\n{% endfor %}'
  '{% if add_generation_prompt %}a:{% endif %}'
)
TURNS = (
  {'role': 'system', 'content': 'S'},
  {'role': 'user', 'content': 'hé?'},
  {'role': 'assistant', 'content': 'yes'},
  {'role': 'user', 'content': 'and?'},
  {'role': 'assistant', 'content': 'no, ä'},
)


def test_answers_and_their_ends_count_and_nothing_else():
  tokens, counted = encode(PLAIN, Bytes(), Dialogue(TURNS, 'here'))
  assert Bytes().decode(tokens) == 's:S\nu:hé?\na:yes\nu:and?\na:no, ä\n'
  assert Bytes().decode(tokens[counted]) == 'yes\nno, ä\n'


def test_dialogues_share_windows_and_stay_whole():
  one = lambda size, answer: Encoded(
    np.full(size, size, np.int32), np.arange(size) >= size - answer
  )
  made = pack([one(4, 1), one(5, 2), one(2, 1), one(12, 5), one(30, 20)], 11, 0)
  assert made.x.tolist() == [
    [0, 4, 4, 4, 4, 0, 5, 5, 5, 5, 5],
    [0, 2, 2, 0, 0, 0, 0, 0, 0, 0, 0],
    [0, *[12] * 10],
  ]
  assert made.x[made.counted].tolist() == [4, 5, 5, 2, 12, 12, 12]
  # Of 12 tokens the last two do not fit, and of 30 no answer does.
  assert (made.cut, made.dropped) == (1, 1)
  with pytest.raises(ConfigError, match=r'no answer fits the 10 tokens of data\.context'):
    pack([one(30, 20)], 11, 0)
  with pytest.raises(ConfigError, match='separates documents between turns'):
    pack([Encoded(np.array([3, 0, 3]), np.ones(3, bool))], 11, 0)


def write(folder, *records):
  lines = [x if isinstance(x, str) else json.dumps(x) for x in records]
  (folder / 'a.jsonl').write_text('\n'.join(lines))
  (folder / 'plain.jinja').write_text(PLAIN.text)
  return folder / 'a.jsonl'


def test_messages_and_pairs_are_read(tmp_path):
  path = write(
    tmp_path,
    {'messages': TURNS},
    '',
    {'question': 'q', 'completion': 'c', 'id': 3, 'system': 's'},
  )
  first, second = read_dialogues(path)
  assert first.messages == TURNS and second.where.endswith('a.jsonl, line 3')
  assert [m['role'] for m in second.messages] == ['system', 'user', 'assistant']


ANSWER = {'role': 'assistant', 'content': 'a'}
BAD = [
  ('{"messages": [', r'line 2 is not JSON'),
  ('[1, 2]', r'line 2 must be a JSON object'),
  ({'text': 'x'}, r"line 2 has no messages: .* it has 'text'"),
  ({'messages': []}, r'line 2 has no messages'),
  ({'prompt': 'x'}, r"line 2 has no messages: .* it has 'prompt'"),
  ({'messages': ['x']}, r'line 2: a message must have'),
  ({'messages': [{'role': 'bard', 'content': 'x'}, ANSWER]}, r"line 2: unknown role 'bard'; known"),
  ({'messages': [{'role': 'user', 'content': 3}, ANSWER]}, r"line 2: the 'content' must be a text"),
  ({'messages': [{'role': 'user', 'content': 'x'}]}, r'line 2 has no answer'),
  ({'prompt': 'x', 'answer': ' '}, r'line 2: an answer is empty'),
]


@pytest.mark.parametrize(('line', 'message'), BAD)
def test_bad_lines_are_refused_with_their_numbers(tmp_path, line, message):
  path = write(tmp_path, {'messages': TURNS}, line)
  with pytest.raises(ConfigError, match=message):
    read_dialogues(path)


def test_bad_files_and_templates_are_refused(tmp_path):
  settings = dict(name='dialogues', dir=str(tmp_path / 'data'), tokenizer='bytes', context=64)
  with pytest.raises(ConfigError, match=r'needs data.source, the path of a JSONL file'):
    pipeline.load(settings)
  settings['source'] = str(tmp_path / 'a.jsonl')
  with pytest.raises(ConfigError, match='must be a JSONL file'):
    pipeline.load(settings)
  write(tmp_path, '')
  with pytest.raises(ConfigError, match='dialogues need a chat template'):
    pipeline.load(settings)
  settings['template'] = str(tmp_path / 'plain.jinja')
  with pytest.raises(ConfigError, match='holds no dialogues'):
    pipeline.load(settings)
  write(tmp_path, *({'prompt': str(n), 'answer': 'a'} for n in range(9)))
  (tmp_path / 'plain.jinja').write_text('{{ raise_exception("no system message") }}')
  with pytest.raises(ConfigError, match='no system message'):
    pipeline.load(settings)
  changing = ChatTemplate(
    '{{ messages | length }}{% for m in messages %}{{ m.content }}{% endfor %}'
  )
  with pytest.raises(ConfigError, match=r'here: .* writes message 3 differently'):
    encode(changing, Bytes(), Dialogue(TURNS, 'here'))


def test_a_template_is_part_of_the_prepared_data(tmp_path):
  path = write(tmp_path, *({'prompt': str(n), 'answer': 'a'} for n in range(20)))
  settings = dict(name='dialogues', dir=str(tmp_path / 'data'), tokenizer='characters', context=30)
  settings |= dict(source=str(path), template=str(tmp_path / 'plain.jinja'))
  data = pipeline.load(settings)
  assert isinstance(data.spec.tokenizer, Characters) and data.spec.counted
  batch = data.splits['train'].gather(np.arange(len(data.splits['train'])))
  assert set(data.spec.tokenizer.decode(batch['x'][batch['counted']])) == {'a', '\n'}
  (tmp_path / 'plain.jinja').write_text(PLAIN.text.replace('a:', 'u:'))
  with pytest.raises(ConfigError, match='differently'):
    pipeline.load(settings)
