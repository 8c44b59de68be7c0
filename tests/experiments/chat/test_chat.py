"""The command `chat`, as a person or a script uses it."""

import io
import json
import signal
import subprocess
import sys

import pytest

from common.config import ConfigError
from experiments import runs
from experiments.chat import talk
from experiments.startup.workdir import config_of
from tests.experiments.chat import tiny
from tests.experiments.commands import ROOT, refused


def said(monkeypatch, capsys, text, conversation=None):
  """What the command prints for turns from a pipe: (output, errors)."""
  before = signal.getsignal(signal.SIGINT)
  monkeypatch.setattr(sys, 'stdin', io.StringIO(text))
  try:
    talk.converse(conversation or tiny.conversation(), 6)
  finally:
    signal.signal(signal.SIGINT, before)
  return capsys.readouterr()


def test_turns_from_a_pipe_make_a_transcript(monkeypatch, capsys, tmp_path):
  path = tmp_path / 'talk.jsonl'
  lines = ['hello', '', f'/save {path}', '/reset', 'again', f'/save {path}', '/quit', 'never']
  out, err = said(monkeypatch, capsys, '\n'.join(lines))
  assert not err
  shown = [line for line in out.splitlines() if line.startswith('> ')]
  assert shown == ['> hello', *(f'> {line}' for line in lines[2:6])]
  assert 'the conversation is forgotten' in out and f'2 messages added to {path}' in out
  saved = [json.loads(line)['messages'] for line in path.read_text().splitlines()]
  assert [messages[0]['content'] for messages in saved] == ['hello', 'again']
  assert out.count(saved[0][1]['content'].split('\n')[0]) >= 1


def test_a_bad_line_ends_no_conversation(monkeypatch, capsys, tmp_path):
  lines = ['/sing', f'/save {tmp_path}/none/a', '/save', 'x' * 900, 'hello']
  out, err = said(monkeypatch, capsys, '\n'.join(lines))
  errors = err.splitlines()
  assert len(errors) == 4 and all(line.startswith('error: ') for line in errors)
  assert "'/sing' is no command; commands: /reset, /save FILE, /quit" in errors[0]
  assert 'write a shorter one' in errors[3] and '> hello' in out


def test_settings_that_no_chat_has_are_refused(tmp_path):
  config = tiny.config()
  assert talk.settings_of(config, {'top_p': 0.9, 'temperature': 0.2}).top_p == 0.9
  with pytest.raises(ConfigError, match='option beams is not for chats'):
    talk.settings_of(config, {'beams': 2})
  with pytest.raises(ConfigError, match='option temperature'):
    talk.settings_of(config, {'temperature': -1})
  with pytest.raises(ConfigError, match='no chat template'):
    talk.template_of(str(tmp_path), None)
  with pytest.raises(ConfigError, match='cannot be read as text'):
    talk.template_of(str(tmp_path), str(tmp_path / 'none'))


@pytest.mark.slow
def test_the_command_talks_and_ctrl_c_ends_only_a_reply(tmp_path):
  workdir = tiny.save(tmp_path / 'run')
  assert config_of(workdir)['data']['name'] == 'none'
  command = [sys.executable, '-m', 'experiments.chat', f'--workdir={workdir}', '--seed=1']
  pipe = subprocess.PIPE
  process = subprocess.Popen(
    [*command, '--length=150'], cwd=ROOT, stdin=pipe, stdout=pipe, stderr=pipe, text=True
  )
  process.stdin.write('hello\n')
  process.stdin.flush()
  assert process.stdout.readline() == '> hello\n'
  process.send_signal(signal.SIGINT)
  out, err = process.communicate('/quit\n')
  assert process.returncode == 0, err
  assert '(interrupted)' in out
  (workdir / 'chat_template.jinja').unlink()
  assert 'has no chat template' in refused('chat', f'--workdir={workdir}')


def test_a_run_without_data_is_evaluated_on_a_text(tmp_path):
  (tmp_path / 'a.txt').write_text('hello again, and again')
  run = runs.load(tiny.save(tmp_path / 'run'))
  found = runs.with_text(run, str(tmp_path / 'a.txt'), None)
  assert len(found.data.splits['test']) >= 1 and found.params is run.params
