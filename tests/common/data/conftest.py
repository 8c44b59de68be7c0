"""Fixtures of the tests of the data path."""

import pytest

from common.data import pipeline


@pytest.fixture(scope='session')
def digits(tmp_path_factory) -> pipeline.Data:
  """scikit-learn's digits, prepared once per session."""
  return pipeline.load({'name': 'digits', 'dir': str(tmp_path_factory.mktemp('data'))})
