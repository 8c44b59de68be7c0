"""Rows from axes, and tables and pictures with one axis across."""

import dataclasses
import io

import pytest
from PIL import Image

from common.config import ConfigError
from common.config_files import load_config
from common.studies import grids, plans, sections, tables
from common.studies.grids import Setting
from common.studies.plans import Row
from tests.common.studies.test_studies import METRICS, Toy, base, run, study_of

__all__ = ['base']  # a fixture
WIDTHS = {'narrow': Setting({'width': 1}), 'wide': Setting({'width': 3})}
STEPS = {'2 steps': Setting(sampling={'steps': 2}), '4 steps': Setting(sampling={'steps': 4})}


def test_a_row_for_each_combination():
  rows = grids.cross(WIDTHS, STEPS)
  assert [row.name for row in rows] == [
    'narrow, 2 steps',
    'narrow, 4 steps',
    'wide, 2 steps',
    'wide, 4 steps',
  ]
  assert rows[2] == Row('wide, 2 steps', {'width': 3}, {'steps': 2}, at=('wide', '2 steps'))


def test_two_axes_cannot_set_the_same():
  with pytest.raises(ConfigError, match="'4 steps' sets steps, which another axis sets too"):
    grids.cross({'few': Setting(sampling={'steps': 1})}, {'4 steps': STEPS['4 steps']})
  whole = {'ddim': Setting(sampling={'sampler': {'name': 'ddim'}})}
  part = {'η=1': Setting(sampling={'sampler.eta': 1.0, 'sampler_like': 2})}
  for axes in ((whole, part), (part, whole)):
    with pytest.raises(ConfigError, match=r'which another axis sets too'):
      grids.cross(*axes)


def test_the_table_has_the_last_axis_across(base, tmp_path):
  rows = (*grids.cross(WIDTHS, STEPS)[:3], Row('deep', {'network.depth': 9}))
  published = {('narrow, 4 steps', 'quality'): 2.5, ('wide, 2 steps', 'quality'): 'diverges'}
  study = study_of(
    base, rows=rows, published=published, claims=(), axes=('width', 'number of steps')
  )
  results = run(study, tmp_path / 'work', Toy())
  (table,) = tables.grid_tables(results)
  assert table.title == 'quality, width by number of steps'
  assert table.header == ['', '2 steps', '4 steps']
  assert table.lines == [
    ['narrow', '2.500 ± 0.020', '2.750 ± 0.020 (2.5)'],
    ['wide', '4.500 ± 0.020 (diverges)', ''],
  ]
  text = tables.markdown(results, {})
  assert '## quality, width by number of steps' in text and '| deep |' in text
  # Without a published cell: the first metric.
  assert grids.laid_out(study_of(base, published={})) == ('quality',)


def test_the_picture_of_a_table_has_published_cells_next_to_measured_ones(base, tmp_path):
  rows, axes = grids.cross(WIDTHS, STEPS), ('width', 'number of steps')
  published = {('narrow, 2 steps', 'quality'): 250.0, ('wide, 4 steps', 'quality'): 'diverges'}
  of_axes = study_of(base, rows=rows, published=published, claims=(), axes=axes)
  found = []
  for name, study in (('axes', of_axes), ('rows', study_of(base))):
    for cells in (study.published, {}):
      one = dataclasses.replace(study, published=cells)
      results = run(one, tmp_path / name, Toy())
      found.append(Image.open(io.BytesIO(sections.picture(results))).size)
  # Without published cells there is one panel instead of two.
  assert found[0][0] == 2 * found[1][0] and found[2][0] > found[3][0]
  empty = results._replace(measures={}, study=study_of(base, published={}))
  assert sections.picture(empty) is None


def test_a_study_of_one_axis_has_the_long_table_only(base, tmp_path):
  study = study_of(base, rows=grids.cross(WIDTHS), published={}, claims=(), axes=('width',))
  assert not tables.grid_tables(run(study, tmp_path / 'work', Toy()))


@pytest.mark.parametrize(
  ('places', 'message'),
  [
    (
      (('narrow',), ()),
      "row 'a' has the place narrow, which must have a value",
    ),
    ((('narrow', 'deep'),) * 2, "rows 'a' and 'b' have the same place on the axes: narrow, deep"),
  ],
)
def test_rows_have_a_place_of_their_own(base, tmp_path, places, message):
  rows = (Row('a', {'width': 1}, at=places[0]), Row('b', {'width': 2}, at=places[1]))
  study = study_of(base, rows=rows, published={}, claims=(), axes=('width', 'depth'))
  with pytest.raises(ConfigError, match=message):
    plans.plan(study, load_config, tmp_path, METRICS)
