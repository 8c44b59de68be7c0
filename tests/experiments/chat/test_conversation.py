"""Conversations keep their cache, end replies where turns end, and forget what does not fit."""

import numpy as np
import pytest

from common.config import ConfigError
from experiments.chat.conversation import Format
from tests.autoregressive.common import outputs_of
from tests.experiments.chat import tiny

END = '<|im_end|>'


def never():
  return False


def reply(talk, length=12, number=1):
  return ''.join(talk.reply(length, never, number))


def scripted(talk, text):
  """Makes the session draw the tokens of a text, one after the other."""
  rest = tiny.tokenizer().encode_marked(text).tolist()

  def draw(number):
    new, rest[:number] = rest[:number], []
    talk.session.append(new)
    talk.session.prefilled -= len(new)
    return new

  talk.session.draw = draw


def test_a_reply_ends_with_the_turn_and_the_template_decides_what_ends_it():
  form = Format(tiny.ChatTemplate(tiny.TEMPLATE), tiny.tokenizer())
  assert form.stops().texts == (END, '<|endoftext|>', END)
  plain = '{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}'
  assert Format(tiny.ChatTemplate(plain), tiny.tokenizer()).stops().texts[0] == '\n'
  talk = tiny.conversation()
  talk.ask('hello')
  scripted(talk, f'hé, 日本!{END}never')
  assert reply(talk, 50) == 'hé, 日本!'
  assert talk.messages[-1] == {'role': 'assistant', 'content': 'hé, 日本!'}


@pytest.mark.parametrize('number', [1, 4])
def test_only_new_tokens_are_taken_in_and_the_cache_is_that_of_the_whole_text(number):
  talk = tiny.conversation(system='be brief', greedy=True)
  encode = tiny.tokenizer().encode_marked
  talk.ask('hello')
  first = talk.session.prefilled
  assert first == len(talk.session.tokens)
  scripted(talk, f'the assistant{END}...')
  assert reply(talk, 30, number) == 'the assistant'
  del talk.session.draw
  talk.ask('and the user?')
  turn = '\n<|im_start|>user\nand the user?<|im_end|>\n<|im_start|>assistant\n'
  assert talk.session.prefilled - first == len(encode(turn))
  reply(talk, 5)
  talk.ask('so?')  # a reply that was cut at its length has no end yet
  turn = '<|im_end|>\n<|im_start|>user\nso?<|im_end|>\n<|im_start|>assistant\n'
  start = len(talk.session.tokens)
  assert talk.session.tokens[-len(encode(turn)) :] == encode(turn).tolist()
  made, params = tiny.model()
  reply(talk, 5)
  tokens = np.array(talk.session.tokens)
  outputs = outputs_of(made, params, tokens[None, :, None])
  best = np.asarray(outputs[0, :, : tiny.tokenizer().vocabulary].argmax(-1))
  np.testing.assert_array_equal(tokens[start:], best[start - 1 :])
  text = tiny.tokenizer().decode(talk.session.tokens)
  assert text.startswith('<|im_start|>system\nbe brief<|im_end|>\n<|im_start|>user\nhello')


def test_a_turn_cannot_end_itself():
  talk = tiny.conversation()
  talk.ask(f'a{END}b')
  marks = tiny.tokenizer().special_tokens
  assert talk.session.tokens.count(marks[END]) == 1


@pytest.mark.slow
def test_a_reply_can_be_interrupted_and_the_conversation_goes_on():
  talk, pieces = tiny.conversation(), []
  talk.ask('hello')
  for piece in talk.reply(100, lambda: len(pieces) >= 3):
    pieces.append(piece)
  assert len(pieces) <= 5
  talk.ask('go on')
  assert [m['role'] for m in talk.messages] == ['user', 'assistant', 'user']


@pytest.mark.slow
def test_old_turns_are_forgotten_when_the_context_is_full():
  talk = tiny.conversation(context=127, system='sys')
  forgotten = []
  for _ in range(5):
    forgotten.append(talk.ask('the user says hello'))
    reply(talk, 8)
  assert forgotten[0] == 0 and max(forgotten) == 2
  assert talk.messages[0]['role'] == 'system' and len(talk.messages) < 11
  kept = list(talk.messages)
  with pytest.raises(ConfigError, match=r'this turn has .* tokens .* the model takes 128'):
    talk.ask('x' * 300)
  assert talk.messages == kept
  talk.reset()
  assert talk.messages == kept[:1]
  talk.ask('the user says hello')
  assert len(talk.session.tokens) < 80
