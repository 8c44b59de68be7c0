"""Stops are found in the text, whatever its tokens, and streams print only what is final."""

import numpy as np
import pytest

from common.data.tokenizers import Bytes, Tokenizer
from common.text.stops import Stops, end_of_block
from common.text.streaming import TextStream


class Pieces(Tokenizer):
  """Tokens that are words with a mark for the space before them, as in SentencePiece."""

  kind = 'pieces'
  words = ('▁to', '▁be', 'come', '▁or', '▁not', ',', '▁', 'b', 'e')
  vocabulary = len(words)

  def encode(self, text):
    raise NotImplementedError

  def decode(self, tokens):
    return ''.join(self.words[i] for i in tokens).replace('▁', ' ').removeprefix(' ')


FUNCTION = 'def f(x):\n'
BLOCKS = [
  # given, drawn up to the end, rest
  (FUNCTION, '  if x:\n    return 1\n\n  return 2\n\n', 'def g():\n'),
  (FUNCTION + '  y = 1\n', '  return y\n', 'z = 3'),
  (FUNCTION + '  for i in x:\n    y = i\n', '    z = y\n', '  return z\n'),
  ('def f(', 'a,\n  b,\n):\n  return a\n', 'f(1)\n'),
  (FUNCTION, '  """Text\nat the margin.\n"""\n  return [\n1,\n]\n', 'x = 2\n'),
  ('class A:\n  def f(self):  # a comment: with a colon\n', '    return 1\n\n', '  def g(self):'),
  (FUNCTION + '  retu', 'rn x\n', 'print(f(1))\n'),
  (FUNCTION, '\treturn x\n# no line of the block\n'[:10], '# a comment'),
]


@pytest.mark.parametrize(('given', 'drawn', 'rest'), BLOCKS)
def test_a_block_ends_where_a_line_is_less_indented(given, drawn, rest):
  assert end_of_block(given, drawn + rest) == len(drawn)
  assert end_of_block(given, drawn) is None
  # Spaces alone do not say yet how far a line is indented.
  assert end_of_block(given, drawn + ' ') is None


@pytest.mark.parametrize('given', ['x = 1\n', '', 'def f(x):\n  return x\ny = 2\n'])
def test_code_at_the_outermost_level_has_no_end(given):
  assert end_of_block(given, 'y = 2\nz = 3\n') is None


def test_a_text_ends_before_the_first_of_several_stops():
  stops = Stops(('END', '\n\n'))
  assert stops.cut('', 'one\n\ntwo END') == 'one'
  assert stops.cut('', 'one END\n\n') == 'one '
  assert stops.cut('', 'one EN') == 'one EN' and stops.end('', 'one EN') is None
  assert stops.settled('one EN') == 'one ' and stops.settled('one ENE') == 'one EN'
  assert Stops(('aab',)).settled('xaa') == 'x'
  with pytest.raises(ValueError, match='at least one character'):
    Stops(('a', ''))
  with pytest.raises(ValueError, match=r"stop_at 'indent'.*dedent"):
    Stops(rule='indent')


def pieces_of(stream, tokens):
  """What a stream prints after each token, and at the end."""
  pieces = [stream.take(tokens[: i + 1]) for i in range(len(tokens))]
  return [*pieces, stream.take(tokens, finished=True)]


def test_characters_are_printed_whole():
  text = 'naïve 👩‍🔬 日本'
  tokens = list(text.encode())
  pieces = pieces_of(TextStream(Bytes(), np.zeros(0, np.int32), ''), tokens)
  assert ''.join(pieces) == text and not any('\ufffd' in piece for piece in pieces)
  assert max(map(len, pieces)) == 1
  cut = pieces_of(TextStream(Bytes(), np.zeros(0, np.int32), ''), tokens[:-1])
  assert ''.join(cut) == text[:-1] + '\ufffd'  # the end of a text that stops within a character


def test_spaces_at_the_seam_are_kept():
  given, drawn = np.array([0]), [1, 3, 4, 5, 0]
  assert Pieces().decode(drawn) == 'be or not, to'
  assert Pieces().continuation(given, drawn) == ' be or not, to'
  pieces = pieces_of(TextStream(Pieces(), given, 'to'), drawn)
  assert pieces == [' be', ' or', ' not', ',', ' to', '']


@pytest.mark.parametrize('drawn', [[1, 3, 4], [6, 7, 8, 3, 4]])
def test_a_stop_is_found_however_it_is_spelled(drawn):
  stream = TextStream(Pieces(), np.array([0]), 'to', Stops(('be or',)))
  assert ''.join(pieces_of(stream, drawn)) == ' ' and stream.ended


def test_nothing_is_printed_that_a_stop_takes_back():
  text = FUNCTION + '  return 1\n\n'
  stream = TextStream(Bytes(), np.array(list(FUNCTION.encode())), FUNCTION, Stops(rule='dedent'))
  pieces = pieces_of(stream, list(b'  return 1\n\ndef g'))
  assert FUNCTION + ''.join(pieces) == text and stream.ended
