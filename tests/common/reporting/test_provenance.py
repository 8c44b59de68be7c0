"""What is kept beside results: the conditions of each start, once, and a name of the code."""

import importlib.metadata
import re

import pytest

from common.reporting import provenance


def test_each_different_start_of_a_run_is_kept_once(tmp_path, monkeypatch):
  provenance.remember(tmp_path)
  provenance.remember(tmp_path)
  (first,) = provenance.remembered(tmp_path)
  assert first.keys() == {'machine', 'devices', 'date', 'versions', 'code'}
  monkeypatch.setattr(provenance, 'code', lambda: 'twofold 9, digest 0123456789ab')
  provenance.remember(tmp_path)
  starts = provenance.remembered(tmp_path)
  assert starts[0] == first and starts[1]['code'].endswith('0123456789ab')
  merged = provenance.merged(
    [starts[0] | {'date': '2026-01-02'}, starts[1] | {'date': '2026-01-01'}]
  )
  assert merged['code'] == f'{first["code"]}; {starts[1]["code"]}'
  assert merged['date'] == '2026-01-01 to 2026-01-02' and merged['machine'] == first['machine']


@pytest.mark.parametrize('text', ['{"starts": [', '[]', '{}', '{"starts": 3}', '{"starts": ["x"]}'])
def test_a_damaged_record_counts_as_none(tmp_path, text):
  (tmp_path / provenance.FILE).write_text(text)
  assert provenance.remembered(tmp_path) == []


def test_the_code_has_a_digest_with_and_without_a_package(monkeypatch):
  digest = provenance.code_digest()
  assert re.fullmatch('[0-9a-f]{12}', digest)
  assert provenance.digest_of(provenance.code()) == digest

  def missing(name):
    raise importlib.metadata.PackageNotFoundError(name)

  monkeypatch.setattr(importlib.metadata, 'version', missing)
  assert provenance.code.__wrapped__().startswith('twofold, not installed, ')
