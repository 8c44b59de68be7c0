"""Values of flags, errors and signals of commands."""

import math
import os
import pathlib
import platform
import signal
import sys

import pytest

from common import config
from common.devices.limits import OutOfMemoryError
from experiments import cli
from experiments.startup import compilation_cache, signals


def test_settings_are_literals_or_text():
  assert cli.parse_options(['steps=20', 'sampler=ddim', 'final_denoise=true', 'eta=0.5']) == {
    'steps': 20,
    'sampler': 'ddim',
    'final_denoise': True,
    'eta': 0.5,
  }


@pytest.mark.parametrize(
  ('text', 'options'),
  [
    ('grid=given,times=(3.0, 1.0,0.2),steps=3', {'times': (3.0, 1.0, 0.2), 'steps': 3}),
    ('steps=3,stop=["a,b", "c"]', {'stop': ['a,b', 'c'], 'steps': 3}),
    ("stop=don't,steps=3", {'stop': "don't", 'steps': 3}),  # an apostrophe opens no text
    ('s_tmax=inf,steps=3', {'s_tmax': math.inf, 'steps': 3}),
    ('stop="say, \'no\'",steps=3', {'stop': "say, 'no'", 'steps': 3}),
  ],
)
def test_a_comma_inside_brackets_or_quotes_separates_nothing(text, options):
  found = cli.parse_options(cli.split_items(text))
  assert found | options == found


def test_an_option_is_given_once():
  with pytest.raises(ValueError, match='steps is given twice'):
    cli.parse_options(['steps=3', 'steps=4'])


@pytest.mark.parametrize('item', ['steps', '=3'])
def test_an_item_without_name_and_value_is_refused(item):
  with pytest.raises(ValueError, match='write name=value'):
    cli.parse_options([item])


@pytest.mark.parametrize('number', [signal.SIGTERM, signal.SIGINT])
def test_the_first_signal_is_recorded_and_the_second_of_either_kind_ends(number):
  kinds = (signal.SIGTERM, signal.SIGINT)
  before = [signal.getsignal(kind) for kind in kinds]
  with signals.stop_on_signals() as stop:
    assert not stop()
    signal.raise_signal(number)
    assert stop()
    assert all(signal.getsignal(kind) == signal.SIG_DFL for kind in kinds)
  assert [signal.getsignal(kind) for kind in kinds] == before


@pytest.mark.parametrize(
  ('number', 'ends', 'code'),
  [(signal.SIGTERM, SystemExit, (75,)), (signal.SIGINT, KeyboardInterrupt, ())],
)
def test_a_signal_before_the_first_step_ends_at_once(number, ends, code):
  """A loop asks after its steps: as long as none has asked, there is nothing to save."""
  with signals.stop_on_signals() as stop:
    with pytest.raises(ends) as end:
      signal.raise_signal(number)
    assert end.value.args == code
    assert stop()  # also a loop that began although a library has swallowed the exception


@pytest.mark.parametrize('buffering', [-1, 1], ids=['at the end', 'at once'])
def test_a_closed_pipe_ends_a_command_quietly(buffering, monkeypatch, capsys):
  read, write = os.pipe()
  os.close(read)
  with os.fdopen(write, 'w', buffering) as stdout:
    monkeypatch.setattr(sys, 'stdout', stdout)
    with pytest.raises(SystemExit) as end, cli.one_line_errors():
      print('many lines')
  assert end.value.code == 141 and not capsys.readouterr().err


def raised(error):
  """The error as it arrives from a library: raised outside our packages."""
  try:
    raise error
  except type(error):
    return error


@pytest.mark.parametrize(
  ('error', 'message'),
  [
    (config.ConfigError('two\n lines'), 'two lines'),
    (raised(KeyError('width')), "KeyError: 'width' (--debug shows where)"),
    (raised(ValueError('cannot reshape')), 'ValueError: cannot reshape (--debug shows where)'),
    (raised(MemoryError()), 'out of memory: ask for less'),
    (raised(RuntimeError('RESOURCE_EXHAUSTED: 9 bytes')), 'out of memory: ask for less'),
    (OutOfMemoryError('out of memory: lower --num'), 'out of memory: lower --num'),
    (raised(RuntimeError()), 'RuntimeError: no message (--debug shows where)'),
    (
      FileNotFoundError(2, 'No such file or directory', 'x.npy'),
      'x.npy: No such file or directory',
    ),
    (
      ValueError('set allow_pickle=True'),
      'the file must hold plain arrays in the format of numpy, ',
    ),
  ],
)
def test_an_error_is_one_line(error, message):
  assert cli.message_of(error).startswith(message) and '\n' not in cli.message_of(error)


@pytest.mark.parametrize(
  ('error', 'code', 'line'),
  [
    (
      ZeroDivisionError('division by zero'),
      1,
      'error: ZeroDivisionError: division by zero',
    ),
    (KeyboardInterrupt(), 130, 'interrupted'),
  ],
)
def test_any_exception_ends_a_command_with_a_line_and_a_code(error, code, line, capsys):
  with pytest.raises(SystemExit) as end, cli.one_line_errors():
    raise error
  printed = capsys.readouterr().err
  assert end.value.code == code and printed.startswith(line) and printed.count('\n') == 1


def test_a_machine_without_proc_has_a_compilation_cache(monkeypatch):
  monkeypatch.setattr(compilation_cache, 'CPU_INFO', pathlib.Path('/nowhere/cpuinfo'))
  assert compilation_cache.processor_name().startswith(platform.machine())
