"""Data for the tests of this folder."""

import pytest

from common.data import pipeline


@pytest.fixture(scope='session')
def digits(tmp_path_factory) -> pipeline.Data:
  return pipeline.load({'name': 'digits', 'dir': str(tmp_path_factory.mktemp('data'))})
