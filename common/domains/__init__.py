"""Kinds of data: one object for each, which knows how it is requested, shown and evaluated."""

from common.config import pick
from common.data.spec import DataSpec
from common.domains.base import Domain
from common.domains.image import ImageDomain
from common.domains.music.domain import MusicDomain
from common.domains.music.rolls import RollsDomain
from common.domains.points import PointsDomain
from common.domains.series import SeriesDomain
from common.domains.text import TextDomain

DOMAINS: dict[str, Domain] = {
  'image': ImageDomain(),
  'text': TextDomain(),
  'music': MusicDomain(),
  'rolls': RollsDomain(),
  'series': SeriesDomain(),
  'points': PointsDomain(),
}


def domain_of(spec: DataSpec) -> Domain:
  """The domain of a dataset. Raises ConfigError for an unknown one."""
  return pick(DOMAINS, spec.domain, 'domain')
