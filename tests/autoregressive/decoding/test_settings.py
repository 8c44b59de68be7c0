"""Settings of decoding: their ranges, and the config that has them."""

import dataclasses

import pytest

from autoregressive.decoding.settings import DecodingSettings, build_settings
from common.config import ConfigError
from experiments import families


@pytest.mark.parametrize(
  'settings, message',
  [
    (dict(top_p=0.0), r'sampling.top_p=0.0 must be in \(0, 1\] \(1: off\)'),
    (dict(top_p=1.5), r'sampling.top_p=1.5 must be in \(0, 1\]'),
    (dict(temperature=-1.0), 'sampling.temperature=-1.0 must be at least 0'),
    (dict(temperature=float('nan')), 'sampling.temperature=nan must be finite and at least 0'),
    (dict(top_k=-1), 'sampling.top_k=-1 must be at least 0'),
    (dict(top_k=2.5), 'sampling.top_k=2.5 must be a whole number'),
    (dict(temperature='hot'), "sampling.temperature='hot' must be a number"),
    (dict(greedy='maybe'), "sampling.greedy='maybe' must be True or False"),
    (dict(guidance=float('inf')), 'sampling.guidance=inf must be a finite number'),
    (dict(tempreature=1.0), "unknown sampling option 'tempreature'; did you mean 'temperature'"),
    (dict(min_p=1.1), r'sampling.min_p=1.1 must be in \[0, 1\]'),
    (dict(repetition_penalty=0.0), 'sampling.repetition_penalty=0.0 must be above 0'),
    (dict(beams=0), r'sampling.beams=0 must be in \[1, 1000\]'),
    (
      dict(beams=2, temperature=0.5),
      'sampling.beams=2 ranks by the log-probability',
    ),
    (dict(stop=(3.5,)), 'sampling.stop must hold texts or tuples of at least one token'),
    (dict(stop=('',)), 'sampling.stop must hold texts or tuples of at least one token'),
    (dict(draft_ahead=0), r'sampling.draft_ahead=0 must be in \[1, 1000\]'),
    (dict(stop=((),)), 'sampling.stop must hold texts or tuples of at least one token'),
  ],
)
def test_settings_out_of_range_are_refused(settings, message):
  with pytest.raises(ConfigError, match=message) as error:
    build_settings({}, **settings)
  assert '\n' not in str(error.value)


def test_settings_agree_with_the_config():
  defaults = {field.name: field.default for field in dataclasses.fields(DecodingSettings)}
  assert families.defaults('autoregressive')['sampling'] == defaults
