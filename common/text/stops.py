"""Where a drawn text ends: before any of several texts, or where a function of the text says so.

Stops are found in the text, not in its tokens: the same text may be spelled by many sequences of
tokens, and a stop may begin and end within tokens.
"""

import dataclasses
import io
import re
import tokenize
from collections.abc import Callable, Mapping

from common.config import pick

# Keywords that begin a line with a block below it.
OPENS_BLOCK = re.compile(
  r'(async|class|def|elif|else|except|finally|for|if|match|try|while|with)\b'
)
COMMENT = re.compile(r'\s+#.*$')
LINE_START = re.compile(r'^[ \t]*', re.MULTILINE)
# What Python's tokenizer says of a text that ends within a string or brackets.
OPEN = ('multi-line', 'triple-quoted')

# (given text, drawn text) -> number of characters of the drawn text to keep; None: it goes on
Rule = Callable[[str, str], int | None]


def end_of_block(given: str, drawn: str) -> int | None:
  """The end of the block of Python code that a text continues: where a line is less indented.

  The block is that of the last line of `given`; if that line begins a block, as `def f(x):` does,
  it is the block below. Lines within a string or within brackets do not end it, nor do empty ones.
  Code at the outermost level has no end.
  """
  lines = [line for line in given.splitlines() if line.strip()]
  if not lines:
    return None
  last = COMMENT.sub('', lines[-1].rstrip())
  least = _indentation(last)
  if last.endswith(':') or OPENS_BLOCK.match(last.lstrip()):
    least += 1
  for match in LINE_START.finditer(drawn):
    # The first characters drawn belong to a line of their own only after a line break.
    own_line = match.start() or given.endswith('\n')
    visible = drawn[match.end() : match.end() + 1]
    # Of an unfinished line of spaces alone, the indentation is not known yet.
    less = own_line and visible not in ('', '\n', '\r') and _indentation(match.group()) < least
    if less and not _is_open(given + drawn[: match.start()]):
      return match.start()
  return None


def _indentation(line: str) -> int:
  line = line.expandtabs(8)
  return len(line) - len(line.lstrip())


def _is_open(code: str) -> bool:
  """Whether code ends within a string of several lines, or within brackets."""
  try:
    for _ in tokenize.generate_tokens(io.StringIO(code).readline):
      pass
  except tokenize.TokenError as error:
    return any(word in str(error) for word in OPEN)
  except SyntaxError:  # inconsistent indentation
    return False
  return False


RULES: Mapping[str, Rule] = {'dedent': end_of_block}


@dataclasses.dataclass(frozen=True)
class Stops:
  """The stops of a text.

  Attributes:
    texts: the drawn text ends before the first of them.
    rule: a key of RULES, or '' for none.
  """

  texts: tuple[str, ...] = ()
  rule: str = ''

  def __post_init__(self):
    if not all(isinstance(text, str) and text for text in self.texts):
      raise ValueError(f'a stop must be a text of at least one character, got {self.texts!r}')
    if self.rule:
      pick(RULES, self.rule, 'stop_at')

  def __bool__(self) -> bool:
    return bool(self.texts or self.rule)

  def end(self, given: str, drawn: str) -> int | None:
    """The number of characters of the drawn text before its first stop; None without one."""
    ends = [drawn.find(text) for text in self.texts]
    ends = [end for end in ends if end >= 0]
    if self.rule and (end := RULES[self.rule](given, drawn)) is not None:
      ends.append(end)
    return min(ends, default=None)

  def cut(self, given: str, drawn: str) -> str:
    """The drawn text up to its first stop."""
    return drawn[: self.end(given, drawn)]

  def settled(self, drawn: str) -> str:
    """The beginning of an unfinished text that no later stop can take back."""
    size = len(drawn)
    for text in self.texts:
      # The longest end of the drawn text that may be the beginning of a stop.
      ends = (n for n in range(min(len(text) - 1, len(drawn)), 0, -1) if drawn.endswith(text[:n]))
      size = min(size, len(drawn) - next(ends, 0))
    if self.rule:
      # A rule looks at whole lines: the last one may still end the text before it.
      line = drawn.rfind('\n') + 1
      size = min(size, line) if not drawn[line:].strip() else size
    return drawn[:size]
