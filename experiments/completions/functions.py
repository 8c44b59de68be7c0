"""Functions of Python's standard library without their bodies, and whether completions parse."""

import ast
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from common.data.builders.base import digest, hash_splits
from common.data.builders.text import Document

MAX_LINES = 40


class Prompt(NamedTuple):
  """The beginning of a function.

  Attributes:
    name: its name and its file.
    given: its signature and its docstring.
  """

  name: str
  given: str


def split(documents: Sequence[Document]) -> dict[str, list[Document]]:
  """The splits of the files, which are those of `data.name=python_code`."""
  found = hash_splits((digest(one.text.encode()) for one in documents), 'the standard library')
  return {name: [documents[i] for i in indices] for name, indices in found.items()}


def prompts(documents: Iterable[Document], number: int) -> list[Prompt]:
  """Beginnings of functions at the outermost level, spread over the documents."""
  found = [prompt for document in documents for prompt in _prompts(document)]
  number = min(number, len(found))
  return [found[i * len(found) // number] for i in range(number)]


def _prompts(document: Document) -> list[Prompt]:
  lines, made = document.text.splitlines(keepends=True), []
  try:
    body = ast.parse(document.text).body
  except SyntaxError:
    return []
  for node in body:
    if isinstance(node, ast.FunctionDef) and ast.get_docstring(node) and len(node.body) > 1:
      last = node.body[0].end_lineno
      line = lines[last - 1]
      # The docstring must end at the indentation of the body, which tells where the body ends.
      level = len(line) - len(line.lstrip())
      if level == node.body[0].col_offset and node.end_lineno - node.lineno < MAX_LINES:
        # Without its last line break: models draw it together with the indentation that follows.
        given = ''.join(lines[node.lineno - 1 : last]).rstrip('\n')
        made.append(Prompt(f'{node.name} in {document.name}', given))
  return made


def parses(given: str, completion: str) -> bool:
  """Whether a completion is code, and valid Python together with what was given."""
  try:
    code = ast.parse(given + completion)
  except (SyntaxError, ValueError, RecursionError, MemoryError):
    return False
  # More than the docstring: a comment alone is no body.
  return len(code.body) == 1 and len(code.body[0].body) > 1
