"""What a training step works through, and the rates and shares that follow from it."""

from typing import NamedTuple

# Names in `metrics.jsonl` that measure the machine and the time of day, not the model.
SPEED = frozenset(('seconds', 'mfu', 'goodput', 'peak_memory_bytes'))


def is_speed(name: str) -> bool:
  """Whether a metric measures how fast a run was: it differs between two equal runs."""
  return name in SPEED or name.endswith('_per_second')


class StepWork(NamedTuple):
  """What one optimiser step works through, on all devices together.

  Attributes:
    unit: what is counted: 'images', 'tokens'.
    units: the number of them in a step.
    flops: model FLOPs of a step (common/flops.py).
    peak: the dense peak of all devices, in FLOP/s; None if it is unknown.
  """

  unit: str = 'examples'
  units: int = 1
  flops: int = 0
  peak: float | None = None

  def rates(self, steps_per_second: float) -> dict[str, float]:
    """Rates by name; 'mfu', model FLOPs utilisation, is a share of the peak, if that is known."""
    model_flops = self.flops * steps_per_second
    rates = {
      'steps_per_second': steps_per_second,
      f'{self.unit}_per_second': self.units * steps_per_second,
      'model_flops_per_second': model_flops,
    }
    return rates if self.peak is None else rates | {'mfu': model_flops / self.peak}

  def texts(self, steps_per_second: float) -> list[str]:
    """['5.1 steps/s', '326 images/s', 'MFU 37 %', '1.23 TFLOP/s'], the most useful first."""
    rates, units = self.rates(steps_per_second), self.units * steps_per_second
    # '0.123', '326' or '1,250,000'
    shown = f'{units:,.0f}' if units >= 1000 else f'{units:.3g}'
    mfu = [f'MFU {percent(rates["mfu"])}'] if 'mfu' in rates else []
    flops = [f'{scaled(rates["model_flops_per_second"])}FLOP/s'] if self.flops else []
    return [f'{steps_per_second:.3g} steps/s', f'{shown} {self.unit}/s', *mfu, *flops]


ONE_EXAMPLE = StepWork()


class Usage(NamedTuple):
  """How a run uses its devices.

  Attributes:
    goodput: the share of wall time in which the devices ran training steps.
    peak_memory: the most bytes in use on any device; None if the devices do not tell.
  """

  goodput: float
  peak_memory: int | None

  def metrics(self) -> dict[str, float]:
    """The values by name; what is unknown is left out."""
    memory = {} if self.peak_memory is None else {'peak_memory_bytes': float(self.peak_memory)}
    return {'goodput': self.goodput} | memory

  def texts(self) -> list[str]:
    """['12.3 GiB', 'goodput 91 %']."""
    memory = [] if self.peak_memory is None else [gibibytes(self.peak_memory)]
    return [*memory, f'goodput {percent(self.goodput)}']


def scaled(value: float | int) -> str:
  """'12.3 G' for 12.3e9: three digits and a prefix of the unit, which the caller adds."""
  for prefix, factor in (('P', 1e15), ('T', 1e12), ('G', 1e9), ('M', 1e6), ('k', 1e3)):
    if value >= factor:
      return f'{value / factor:.3g} {prefix}'
  return f'{value:.3g} '


def percent(share: float) -> str:
  """'37.1 %'."""
  return f'{100 * share:.3g} %'


def gibibytes(number: int) -> str:
  """'12.3 GiB'; less than 0.01 GiB as MiB."""
  return f'{number / 2**30:.3g} GiB' if number >= 0.01 * 2**30 else f'{number / 2**20:.3g} MiB'
