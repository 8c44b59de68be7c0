"""Writers: lines that survive interruptions, and progress with the right rate."""

import io
import json
import math
import os
import resource
import signal
import subprocess
import sys

import numpy as np
import pytest
from absl import logging

from common.files import atomic_write
from common.reporting import writers
from common.reporting.rates import StepWork, Usage
from common.reporting.writers import Progress, Writer, duration, read


def write(workdir, steps, **settings):
  with Writer(workdir, tensorboard=False, **settings) as writer:
    for step in steps:
      writer.scalars(step, {'loss': 1 / step, 'rate': np.float32(step)})


def test_reading_returns_the_written_lines(tmp_path):
  with Writer(tmp_path) as writer:
    writer.scalars(10, {'loss': 0.1, 'bits': np.float32(2.5)})
    writer.scalars(20, {'loss': np.array(3)}, 'validation')
  first, second = read(tmp_path)
  assert first.pop('time') <= second.pop('time')
  assert first == {'step': 10, 'split': 'train', 'loss': 0.1, 'bits': 2.5}
  assert second == {'step': 20, 'split': 'validation', 'loss': 3.0}
  assert [row['step'] for row in read(tmp_path, 'validation')] == [20]
  assert read(tmp_path / 'nowhere') == []


def test_nan_and_infinity_are_read_back_and_the_file_is_valid_json(tmp_path):
  values = {'a': math.nan, 'b': math.inf, 'c': -math.inf, 'd': 1e-30}
  with Writer(tmp_path) as writer:
    writer.scalars(1, values)

  def refuse(name):
    raise AssertionError(f'{name} is not JSON')

  line = json.loads((tmp_path / 'metrics.jsonl').read_text(), parse_constant=refuse)
  assert (line['a'], line['b'], line['c']) == ('NaN', 'Infinity', '-Infinity')
  row = read(tmp_path)[0]
  assert math.isnan(row['a']) and (row['b'], row['c'], row['d']) == (math.inf, -math.inf, 1e-30)


def test_a_resumed_run_writes_the_lines_it_would_have_written(tmp_path):
  write(tmp_path / 'whole', range(1, 11), step=0)
  write(tmp_path / 'parts', range(1, 8), step=0)
  with (tmp_path / 'parts' / 'metrics.jsonl').open('a') as file:
    file.write('{"step": 8, "spl')  # killed while it wrote
  assert [row['step'] for row in read(tmp_path / 'parts')] == list(range(1, 8))
  write(tmp_path / 'parts', range(6, 11), step=5)  # the last checkpoint was that of step 5
  strip = lambda rows: [{k: v for k, v in row.items() if k != 'time'} for row in rows]
  assert strip(read(tmp_path / 'parts')) == strip(read(tmp_path / 'whole'))


def test_without_a_step_no_line_is_removed(tmp_path):
  write(tmp_path, (1, 2))
  with (tmp_path / 'metrics.jsonl').open('a') as file:
    file.write('{"step": 8, "spl')  # but half a line would spoil the next one
  write(tmp_path, (1, 3))
  assert [row['step'] for row in read(tmp_path)] == [1, 2, 1, 3]


def test_a_line_is_written_whole_or_not_at_all(tmp_path):
  soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
  handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
  try:
    with Writer(tmp_path, tensorboard=False) as writer:
      writer.scalars(1, {'loss': 1.0})
      size = (tmp_path / 'metrics.jsonl').stat().st_size
      resource.setrlimit(resource.RLIMIT_FSIZE, (size + 20, hard))  # room for part of a line
      with pytest.raises(OSError, match=r'No space|too large'):
        writer.scalars(2, {'loss': 0.5})
      resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
      assert (tmp_path / 'metrics.jsonl').stat().st_size == size
      writer.scalars(3, {'loss': 0.25})
  finally:
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    signal.signal(signal.SIGXFSZ, handler)
  assert [row['step'] for row in read(tmp_path)] == [1, 3]


def test_lines_are_removed_atomically(tmp_path, monkeypatch):
  write(tmp_path, range(1, 6))
  before = (tmp_path / 'metrics.jsonl').read_bytes()
  monkeypatch.setattr(os, 'replace', lambda *_: (_ for _ in ()).throw(OSError('killed')))
  with pytest.raises(OSError, match='killed'):
    Writer(tmp_path, step=3)
  assert (tmp_path / 'metrics.jsonl').read_bytes() == before
  assert os.listdir(tmp_path) == ['metrics.jsonl']


def test_an_invalid_line_is_named(tmp_path):
  write(tmp_path, (1, 2))
  file = tmp_path / 'metrics.jsonl'
  file.write_text('what?\n' + file.read_text())
  with pytest.raises(ValueError, match=r'jsonl, line 1 must be a JSON object .*, got .what'):
    read(tmp_path)


def test_reserved_names_are_refused(tmp_path):
  with (
    Writer(tmp_path) as writer,
    pytest.raises(ValueError, match="rename 'step'"),
  ):
    writer.scalars(1, {'step': 3.0})
  assert read(tmp_path) == []


def test_only_process_0_writes(tmp_path, monkeypatch):
  monkeypatch.setattr(writers.jax, 'process_index', lambda: 1)
  with Writer(tmp_path / 'run', step=0) as writer:
    writer.scalars(1, {'loss': 1.0})
    writer.images(1, 'x', np.zeros((2, 2, 3), np.uint8))
  assert not (tmp_path / 'run').exists()


def events(workdir) -> list:
  """The complete records in TensorBoard's files."""
  from tensorboardX.proto import event_pb2

  found = []
  for path in sorted((workdir / 'tensorboard').iterdir()):
    data, at = path.read_bytes(), 0
    while at < len(data):
      size = int.from_bytes(data[at : at + 8], 'little')
      found.append(event_pb2.Event.FromString(data[at + 12 : at + 12 + size]))
      at += 12 + size + 4
  return found


def test_tensorboard_gets_scalars_and_images(tmp_path):
  with Writer(tmp_path, step=0) as writer:
    writer.scalars(5, {'loss': 0.5, 'bad': math.nan})
    writer.images(5, 'samples', np.arange(48, dtype=np.uint8).reshape(4, 4, 3))
  with Writer(tmp_path, step=5) as writer:
    writer.scalars(6, {'loss': 0.25}, 'validation')
  found = [
    (e.step, v.tag, v.WhichOneof('value')) for e in events(tmp_path) for v in e.summary.value
  ]
  assert found == [
    (5, 'train/loss', 'simple_value'),
    (5, 'samples', 'image'),
    (6, 'validation/loss', 'simple_value'),
  ]
  image = next(v.image for e in events(tmp_path) for v in e.summary.value if v.tag == 'samples')
  assert (image.height, image.width, image.colorspace) == (4, 4, 3)
  # Events that the interrupted run wrote after step 5 are marked as void.
  assert [e.step for e in events(tmp_path) if e.session_log.status] == [6]


def test_the_module_imports_neither_tensorboard_nor_tqdm_and_never_pytorch():
  code = (
    'import sys\n'
    'from common.reporting import writers\n'
    'heavy = {"tensorboardX", "tqdm", "torch"}\n'
    'print(heavy & set(sys.modules))\n'
    'writers.event_writer()\n'
    'print(heavy & set(sys.modules))'
  )
  done = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, check=True)
  assert done.stdout.splitlines() == ['set()', "{'tensorboardX'}"]


# Progress.


class Clock:
  def __init__(self, monkeypatch):
    self.now = 100.0
    monkeypatch.setattr(writers.time, 'monotonic', lambda: self.now)


class Terminal(io.StringIO):
  def isatty(self):
    return True

  def fileno(self):
    return 0


def test_the_rate_leaves_out_compilation_and_pauses(monkeypatch):
  clock = Clock(monkeypatch)
  work = StepWork('images', 64, flops=10**9)
  with Progress(1000, work=work, stream=io.StringIO()) as progress:
    clock.now += 60  # compilation
    progress.report(10, 2.0)
    assert progress.rate() is None and progress.text(10, 2.0) == 'step 10/1000  loss 2'
    for step in range(20, 110, 10):
      clock.now += 2
      progress.report(step, 1.5)
    assert progress.rate() == pytest.approx(5)
    assert progress.text(100, 1.5) == (
      'step 100/1000  loss 1.5  5 steps/s  320 images/s  5 GFLOP/s  3:00 left'
    )
    usage = Usage(goodput=0.912, peak_memory=3 * 2**30)
    assert '  5 GFLOP/s  3 GiB  goodput 91.2 %  3:00 left' in progress.text(100, 1.5, usage)
    clock.now += 30  # evaluation
    progress.exclude_pause()
    assert progress.rate() == pytest.approx(5)
    clock.now += 2
    progress.report(110)
    assert progress.rate() == pytest.approx(5)


def test_the_rate_covers_only_recent_reports(monkeypatch):
  clock = Clock(monkeypatch)
  with Progress(1000, window=5, stream=io.StringIO()) as progress:
    for step in range(1, 50):
      clock.now += 10 if step < 40 else 0.5
      progress.report(step)
    assert progress.rate() == pytest.approx(2)


def test_plain_lines_without_a_terminal(monkeypatch, caplog):
  clock = Clock(monkeypatch)
  caplog.set_level('INFO')
  logging.set_verbosity(logging.INFO)
  stream = io.StringIO()
  with Progress(95, step=20, log_every=30, stream=stream) as progress:
    for step in range(30, 96, 5):
      clock.now += 1
      progress.report(step, 0.5)
  lines = [r.getMessage() for r in caplog.records]
  # At multiples of 30, as without an interruption at step 20.
  assert [line.split('  ')[0] for line in lines] == [f'step {n}/95' for n in (30, 60, 90, 95)]
  assert all('loss 0.5  5 steps/s' in line for line in lines[1:]) and stream.getvalue() == ''


@pytest.mark.parametrize(
  ('columns', 'line'),
  [
    (120, 'step 40/40  loss 0.125  2 steps/s  16 images/s  MFU 40 %  4 kFLOP/s  0:00 left'),
    (82, 'step 40/40  loss 0.125  2 steps/s  16 images/s  MFU 40 %  0:00 left'),
    (60, 'step 40/40  loss 0.125  2 steps/s  0:00 left'),
    (52, 'step 40/40  loss 0.125  0:00 left'),
  ],
)
def test_one_line_redrawn_on_a_terminal_whole_at_any_width(monkeypatch, caplog, columns, line):
  caplog.set_level('INFO')
  clock, stream = Clock(monkeypatch), Terminal()
  monkeypatch.setattr(os, 'get_terminal_size', lambda *_: os.terminal_size((columns, 24)))
  work = StepWork('images', 8, flops=2000, peak=1e4)
  with Progress(40, work=work, stream=stream) as progress:
    for step in (10, 20, 30, 40):
      clock.now += 5
      progress.report(step, 0.125)
  shown = stream.getvalue()
  assert f'\r{line}' in shown and len(line) <= columns
  assert shown.count('\n') == 1 and not caplog.records


@pytest.mark.parametrize('columns', [0, 30])
def test_a_terminal_without_a_width_gets_plain_lines(monkeypatch, caplog, columns):
  caplog.set_level('INFO')
  logging.set_verbosity(logging.INFO)
  stream = Terminal()
  monkeypatch.setattr(os, 'get_terminal_size', lambda *_: os.terminal_size((columns, 24)))
  with Progress(40, stream=stream) as progress:
    progress.report(40, 0.125)
  assert [r.getMessage() for r in caplog.records] == ['step 40/40  loss 0.125']
  assert stream.getvalue() == ''


def test_a_folder_that_vanishes_is_noticed_at_the_next_line(tmp_path):
  with Writer(tmp_path / 'run', tensorboard=False) as writer:
    writer.scalars(1, {'loss': 1.0})
    (tmp_path / 'run').rename(tmp_path / 'elsewhere')
    for _ in range(2):  # also where a new folder has the name
      with pytest.raises(FileNotFoundError, match='was removed or replaced'):
        writer.scalars(2, {'loss': 1.0})
      (tmp_path / 'run').mkdir(exist_ok=True)
      (tmp_path / 'run' / 'metrics.jsonl').touch()
  assert [row['step'] for row in read(tmp_path / 'elsewhere')] == [1]


def test_durations():
  assert [duration(s) for s in (0.0, 6.6, 157.0, 3723.0, 90061.0, 4e8)] == [
    '0:00', '0:07', '2:37', '1:02:03', '25:01:01', '4,630 days',
  ]  # fmt: skip


# Whole files.


def test_a_failed_write_leaves_the_old_file(tmp_path, monkeypatch):
  path = tmp_path / 'new' / 'file.txt'
  atomic_write(path, 'één')
  assert path.read_bytes() == 'één'.encode() and path.stat().st_mode & 0o444 == 0o444
  monkeypatch.setattr(os, 'fsync', lambda _: (_ for _ in ()).throw(OSError('disk full')))
  with pytest.raises(OSError, match='disk full'):
    atomic_write(path, b'two')
  assert path.read_bytes() == 'één'.encode() and os.listdir(path.parent) == ['file.txt']
  monkeypatch.undo()
  atomic_write(path, b'two')
  assert path.read_bytes() == b'two' and os.listdir(path.parent) == ['file.txt']


def test_a_file_that_cannot_be_written(tmp_path):
  atomic_write(tmp_path / 'file', 'x')
  with pytest.raises(OSError, match='file'):
    atomic_write(tmp_path / 'file' / 'below', 'x')
