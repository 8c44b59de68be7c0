"""Dialogues from JSONL: a line is one dialogue.

{"messages": [{"role": "user", "content": "..."}, {"role": "assistant", "content": "..."}]}
{"prompt": "...", "answer": "..."}
"""

import json
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from common.config import ConfigError
from common.data.tokenizers.chat_template import ROLES

Message = dict[str, str]
PROMPTS = ('prompt', 'question', 'instruction')
ANSWERS = ('answer', 'completion', 'response')
FORMS = '{"messages": [{"role": ..., "content": ...}, ...]} or {"prompt": ..., "answer": ...}'


class Dialogue(NamedTuple):
  """A dialogue.

  Attributes:
    messages: each with a 'role' and a 'content'.
    where: its file and line, for messages.
  """

  messages: tuple[Message, ...]
  where: str


def read_dialogues(path: pathlib.Path) -> list[Dialogue]:
  """The dialogues of a file. Raises ConfigError that names the line that is not one."""
  try:
    lines = path.read_bytes().decode().splitlines()
  except (OSError, ValueError) as error:
    raise ConfigError(f'cannot read {path} as UTF-8 text: {error}') from error
  found = []
  for number, line in enumerate(lines, 1):
    if line.strip():
      where = f'{path}, line {number}'
      found.append(Dialogue(_messages(line, where), where))
  if not found:
    raise ConfigError(f'{path} holds no dialogues: write one on each line, as {FORMS}')
  return found


def _messages(line: str, where: str) -> tuple[Message, ...]:
  """The messages of a line."""
  try:
    record = json.loads(line)
  except (ValueError, RecursionError) as error:
    raise ConfigError(f'{where} is not JSON: {error}') from error
  if not isinstance(record, Mapping):
    raise ConfigError(f'{where} must be a JSON object, {FORMS}; got {line.strip():.60}')
  messages = _pair(record) if 'messages' not in record else record['messages']
  if not isinstance(messages, Sequence) or isinstance(messages, str) or not messages:
    known = ', '.join(map(repr, record)) or 'nothing'
    raise ConfigError(f'{where} has no messages: write {FORMS}; it has {known:.80}')
  checked = tuple(_message(message, where) for message in messages)
  if not any(message['role'] == 'assistant' for message in checked):
    raise ConfigError(f"{where} has no answer: a message with the role 'assistant'")
  return checked


def _pair(record: Mapping[str, Any]) -> list[Message] | None:
  """The messages of a prompt and an answer; None if the record has other keys."""
  prompt = next((record[key] for key in PROMPTS if key in record), None)
  answer = next((record[key] for key in ANSWERS if key in record), None)
  if prompt is None or answer is None:
    return None
  system = [{'role': 'system', 'content': record['system']}] if 'system' in record else []
  return [
    *system,
    {'role': 'user', 'content': prompt},
    {'role': 'assistant', 'content': answer},
  ]


def _message(message: Any, where: str) -> Message:
  """A message, checked."""
  if not isinstance(message, Mapping) or not {'role', 'content'} <= message.keys():
    raise ConfigError(
      f"{where}: a message must have a 'role' and a 'content', got {json.dumps(message):.80}"
    )
  role, content = message['role'], message['content']
  if role not in ROLES:
    raise ConfigError(f'{where}: unknown role {role!r:.40}; known: {", ".join(ROLES)}')
  if not isinstance(content, str):
    raise ConfigError(f"{where}: the 'content' must be a text, got {json.dumps(content):.80}")
  if role == 'assistant' and not content.strip():
    raise ConfigError(f'{where}: an answer is empty; remove the line or write the answer')
  return {'role': role, 'content': content}
