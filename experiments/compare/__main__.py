"""Compares runs: the settings that differ, their metrics and evaluations, and their curves.

twofold compare runs/digits runs/pixels --out=compare.png

It reads configs, logs and evaluations, and no data: runs may have other data or another family, and
need not be finished.
"""

import pathlib
from collections.abc import Iterator, Mapping, Sequence

from common.files import to_path
from common.reporting import pictures, plots
from experiments import cli
from experiments.compare import sides as sides_lib

OUT = cli.define('out', 'The picture of the curves, a .png; by default none.', cli.OutParser())


def main(arguments: list[str]) -> None:
  names = [str(to_path(name)) for name in arguments]
  sides_lib.check(names)
  if OUT.value is not None and not OUT.value.endswith('.png'):
    raise ValueError(f'--out={OUT.value}: the name must end in .png')
  sides = [sides_lib.read(name) for name in names]
  for line in tables(sides):
    print(line)
  if OUT.value is None:
    return
  if panels := sides_lib.curves(sides):
    pictures.save_png(pathlib.Path(OUT.value), plots.curve_panels(panels, 'step'))
    print(f'curves in {OUT.value}')
  else:
    print(f'no run has a curve yet: {OUT.value} was not written')


def tables(sides: Sequence[sides_lib.Side]) -> Iterator[str]:
  """The lines to print."""
  names = [side.name for side in sides]
  settings, left_out = sides_lib.differing_settings(sides)
  if settings:
    yield from columns('settings that differ', names, settings)
  else:
    yield 'the runs have the same settings'
  if left_out:
    yield f'{left_out} settings that only some of the runs have, at their defaults, are left out'
  yield ''
  yield from columns('results', names, sides_lib.quantities(sides))
  yield from sides_lib.notes(sides)


def columns(
  heading: str, names: Sequence[str], table: Mapping[str, Sequence[str]]
) -> Iterator[str]:
  """A table with a column for each run, aligned."""
  rows = [[heading, *names], *([what, *values] for what, values in table.items())]
  widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
  for row in rows:
    cells = (f'{cell:<{width}}' for cell, width in zip(row, widths, strict=True))
    yield '  '.join(cells).rstrip()


if __name__ == '__main__':
  cli.run(main, takes_arguments=True)
