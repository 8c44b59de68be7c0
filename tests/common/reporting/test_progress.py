"""The progress of long work outside training."""

import logging as std_logging

from absl import logging

from common.reporting import progress


def test_long_work_is_reported_in_lines_without_a_terminal(monkeypatch, caplog):
  caplog.set_level(std_logging.INFO)
  logging.set_verbosity(logging.INFO)
  now = [100.0]
  monkeypatch.setattr(progress.time, 'monotonic', lambda: now[0])
  seen = []
  for item in progress.reported('abcdefgh', 8, 'sampling'):
    seen.append(item)
    now[0] += 20.0
  assert ''.join(seen) == 'abcdefgh'
  assert [record.getMessage() for record in caplog.records] == [
    'sampling: 2 of 8, about 2:00 left',
    'sampling: 4 of 8, about 1:20 left',
    'sampling: 6 of 8, about 0:40 left',
  ]


def test_short_work_says_nothing(caplog):
  caplog.set_level(std_logging.INFO)
  assert list(progress.reported(range(100), 100, 'sampling')) == list(range(100))
  assert not caplog.records
