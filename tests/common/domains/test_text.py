"""Samples of text: they begin as the data do, end at a separator, and never act on a terminal."""

import dataclasses
import pathlib

import jax
import numpy as np
import pytest

from autoregressive.method import build
from common.config import ConfigError
from common.data.pipeline import Data
from common.data.spec import DataSpec
from common.data.tokenizers import Bytes, Characters
from common.domains import DOMAINS, text
from common.domains.base import SampleFlags, SampleSettings, TrainedModel
from common.domains.display import EvaluationDraws
from tests.autoregressive.common import perturbed
from tests.autoregressive.texts import WINDOWS, text_config, windows
from tests.common.domains.toy import Split

LENGTH = 40  # beyond the context of WINDOWS, so the window slides


@pytest.fixture(scope='module')
def trained():
  """A model of random parameters over separated letters: separators are frequent."""
  method, batch = build(text_config(), WINDOWS), windows(8)
  params = perturbed(jax.jit(method.init)(jax.random.key(0), batch)[0])
  x = np.array(batch['x'])
  x[0, 3] = 0  # a separator
  splits = dict.fromkeys(('train', 'validation', 'test'), Split(x=x))
  return TrainedModel(method, params, Data(WINDOWS, splits), 3, 'autoregressive', {})


def draw(trained, options=None, **flags):
  settings = SampleSettings(SampleFlags(num=6, length=LENGTH, **flags), options=options or {})
  return text.continue_prompt(trained, settings)


@pytest.mark.parametrize('prompt', [None, 'ab'])
def test_texts_end_at_their_separator_and_are_not_filled_up(trained, prompt):
  """With and without the stop the draws are the same: texts are beginnings of longer ones."""
  ended = draw(trained, prompt=prompt)
  whole = trained.draw(
    text.Request(
      6,
      past=text.prompts(trained, SampleFlags(prompt=prompt), 6),
      options={'length': LENGTH + (1 if prompt is None else 2), 'slide': True},
    ),
    0,
  )[0]
  rows = [WINDOWS.tokenizer.decode(row) for row in np.asarray(whole.x)]
  begin = 1 if prompt is None else 0
  assert ended.texts == [row[begin:].partition('\0')[0] for row in rows]
  assert min(map(len, ended.texts)) < 20  # so that some did end
  assert not any('\0' in made for made in ended.texts)


def test_a_stop_text_ends_a_text_as_well(trained):
  plain, stopped = draw(trained, prompt='ab'), draw(trained, prompt='ab', stop='c')
  assert stopped.texts == ['ab' + made[2:].partition('c')[0] for made in plain.texts]


@pytest.mark.parametrize(
  ('prompt', 'message'),
  [
    ('', 'the prompt is empty'),
    ('aÜ', "character 'Ü' is not in the vocabulary of"),
    ('a' * 13, 'the prompt must have at most 12 tokens, .* got 13'),
  ],
)
def test_bad_prompts_are_refused(trained, prompt, message):
  with pytest.raises(ConfigError, match=message):
    draw(trained, prompt=prompt)


def test_flags_that_do_not_suit_text_are_refused():
  domain = DOMAINS['text']
  with pytest.raises(ValueError, match=r'--mask=left: letters holds text, which --prompt'):
    domain.check_flags(WINDOWS, SampleFlags(mask='left'), None)
  with pytest.raises(ValueError, match=r'--out=x\.png: the name must end in \.txt'):
    domain.check_flags(WINDOWS, SampleFlags(), pathlib.Path('x.png'))


def spec(tokenizer):
  return DataSpec('t', 'text', (5,), tokenizer.vocabulary, tokenizer=tokenizer)


LINES, LINE, DOCUMENTS = b'ab\ncdef\ngh', b'abcdefghij', b'ab\0cd\nefgh'


@pytest.mark.parametrize(
  ('tokenizer', 'stream', 'expected'),
  [
    (Bytes(), DOCUMENTS, [0, 0, 0]),
    (Bytes(), LINES, [10, 10, 10]),
    (Bytes(), LINE, [97, 102, 97]),
    (Characters('\nabcdefgh'), LINES, [0, 0, 0]),
    (Characters('abcdefghij'), LINE, [0, 5, 0]),
  ],
)
def test_a_text_without_a_prompt_begins_with_a_token_of_the_data(tokenizer, stream, expected):
  x = tokenizer.encode(stream.decode())[:10].reshape(2, 5).astype(np.uint8)
  domain, source = DOMAINS['text'], Split(x=x)
  tokens = text.first_tokens(spec(tokenizer), source, np.arange(3))
  assert tokens.tolist() == [[token] for token in expected]
  for request in (
    domain.preview_request(spec(tokenizer), False, source),
    domain.evaluation_request(spec(tokenizer), np.arange(3), False, source, {}),
  ):
    np.testing.assert_array_equal(request.past[:3], tokens)


def test_pages_show_the_first_token_only_if_it_is_text():
  made = np.frombuffer(b'\0ab\0c' + b'\nabcd' + b'xabcd', np.uint8).reshape(3, 5)
  assert text.decode(spec(Bytes()), made) == ('ab', 'abcd', 'xabcd')
  shown = DOMAINS['text'].evaluation_display(spec(Bytes()), EvaluationDraws(made)).text
  assert '\0' not in shown


def test_control_characters_never_reach_a_terminal():
  harmless = 'a\tb\nnaïve 日本 👩\u200d🔬'
  assert text.printable(harmless) == harmless
  assert text.printable('\0\x1b[31m\r\x9b\x7f\u202e\ud800') == (
    r'\x00\x1b[31m\r\x9b\x7f\u202e\ud800'
  )


def test_files_hold_the_text_as_it_is_and_the_message_its_escapes(trained, tmp_path):
  bell = WINDOWS.tokenizer.characters.replace('g', '\x07')
  ringing = dataclasses.replace(WINDOWS, tokenizer=Characters(bell))
  data = trained.data._replace(spec=ringing)
  settings = SampleSettings(SampleFlags(num=6, length=LENGTH, prompt='ab'))
  said = DOMAINS['text'].sample(trained._replace(data=data), settings, tmp_path / 'out.txt')
  page = (tmp_path / 'out.txt').read_text()
  assert '\x07' in page and '\x07' not in said
  assert page.replace('\x07', r'\x07') in said


def test_a_request_is_checked_without_parameters(trained):
  opened, domain = trained._replace(params=None), DOMAINS['text']
  for flags, options, message in [
    (dict(), {}, None),
    (dict(prompt='ab', stop='c'), {'beams': 1}, None),
    (dict(prompt='é'), {}, 'é'),
    (dict(stop=('a', '')), {}, 'a stop must be a text of at least one character'),
    (dict(stop_at='indent'), {}, "'indent'.*dedent"),
    (dict(length=9), {'length': 8}, '--length and option length say the same'),
    (dict(), {'draft_ahead': 2}, 'needs a draft'),
    (dict(), {'beams': 2}, 'slide allows neither beams'),
    (dict(num=10**6, length=10**6), {}, '2,147,483,648 are the most'),
  ]:
    settings = SampleSettings(SampleFlags(**{'length': LENGTH} | flags), options=options)
    if message is None:
      domain.check(opened, settings, None)
      continue
    with pytest.raises(ValueError, match=message):
      domain.check(opened, settings, None)


def test_several_stops_end_a_text_and_the_drawing(trained):
  plain, stopped = draw(trained, prompt='ab'), draw(trained, prompt='ab', stop=('cd', 'e', 'fa'))
  stops = text.Stops(('cd', 'e', 'fa'))
  assert stopped.texts == ['ab' + stops.cut('ab', made[2:]) for made in plain.texts]
  # Only the tokens up to the stop count.
  shorter = [a for a, b in zip(stopped.texts, plain.texts, strict=True) if a != b]
  assert shorter and sum(stopped.log_probs) > sum(plain.log_probs)
  beams = {'beams': 2, 'slide': False}
  settings = SampleSettings(SampleFlags(num=1, length=9, prompt='ab', stop='c'), options=beams)
  assert 'c' not in text.continue_prompt(trained, settings).texts[0]


def test_a_stream_prints_the_text_that_is_sampled_at_once(trained, capsys):
  settings = SampleSettings(SampleFlags(num=1, length=LENGTH, prompt='ab', stop=('cd',)), seed=1)
  (expected,) = text.continue_prompt(trained, settings).texts
  assert capsys.readouterr().out == ''
  flags = dataclasses.replace(settings.flags, stream=True, num=None)
  said = DOMAINS['text'].sample(trained, SampleSettings(flags, seed=1), None)
  assert capsys.readouterr().out == text.printable(expected)
  assert len(expected) > 4 and expected not in said
  with pytest.raises(ConfigError, match='--stream prints one text'):
    text.continuation(trained, SampleSettings(dataclasses.replace(flags, num=2)))
