"""Pictures, plots and the report."""

import base64
import html.parser
import io
import os
import re
import xml.etree.ElementTree as ElementTree

import numpy as np
import pytest
from PIL import Image

from common.reporting import plots, report


def opened(data):
  """The pixels of a PNG."""
  return np.asarray(Image.open(io.BytesIO(data)))


def test_grid_places_each_image():
  images = np.arange(1, 4, dtype=np.uint8)[:, None, None, None] * np.ones((1, 2, 2, 1), np.uint8)
  grid = report.image_grid(images, columns=2, gap=1, background=9)
  expected = [
    [9, 9, 9, 9, 9, 9, 9],
    [9, 1, 1, 9, 2, 2, 9],
    [9, 1, 1, 9, 2, 2, 9],
    [9, 9, 9, 9, 9, 9, 9],
    [9, 3, 3, 9, 9, 9, 9],
    [9, 3, 3, 9, 9, 9, 9],
    [9, 9, 9, 9, 9, 9, 9],
  ]
  assert grid.shape == (7, 7, 3) and np.array_equal(grid[..., 0], expected)
  large = report.image_grid(images, columns=2, scale=3, background=9)
  assert np.array_equal(large[::3, ::3, 0], expected) and large.shape == (21, 21, 3)


def test_grid_stretches_levels_and_lays_transparency_on_white():
  digits = np.array([0, 8, 16], np.uint8).reshape(1, 1, 3, 1)
  assert report.image_grid(digits, 1, levels=17, gap=0)[0, :, 0].tolist() == [0, 128, 255]
  red = np.array([[255, 0, 0, 255], [255, 0, 0, 0]], np.uint8).reshape(1, 1, 2, 4)
  assert report.image_grid(red, 1, gap=0)[0].tolist() == [[255, 0, 0], [255, 255, 255]]


@pytest.mark.parametrize(
  ('shape', 'columns', 'scale'), [((0, 2, 2, 1), 1, 1), ((1, 2, 2, 2), 1, 1), ((1, 2, 2, 1), 0, 1)]
)
def test_grid_refuses_what_it_cannot_show(shape, columns, scale):
  with pytest.raises(ValueError, match=r'images of shape|columns=0'):
    report.image_grid(np.zeros(shape, np.uint8), columns, scale)


def test_png_is_lossless_and_whole_or_not_there(tmp_path, monkeypatch):
  picture = np.random.default_rng(0).integers(0, 256, (5, 7, 3)).astype(np.uint8)
  path = tmp_path / 'samples' / 'grid.png'
  report.save_png(path, picture)
  assert np.array_equal(opened(path.read_bytes()), picture)

  def full(*arguments):
    raise OSError(28, 'No space left on device')

  monkeypatch.setattr(os, 'replace', full)
  with pytest.raises(OSError, match='No space left'):
    report.save_png(path, np.zeros((2, 2, 3), np.uint8))
  assert np.array_equal(opened(path.read_bytes()), picture)
  assert [file.name for file in path.parent.iterdir()] == ['grid.png']


def records(num, offset=0.0):
  """Lines of a metrics.jsonl, of two splits."""
  train = [{'step': s, 'split': 'train', 'loss': offset + 1 / (s + 1)} for s in range(num)]
  return [*train, {'step': num, 'split': 'validation', 'loss': 7.0}]


def test_curve_picks_a_split_and_keeps_the_last_point():
  series = plots.curve(records(10_001), 'loss')
  assert len(series.x) <= plots.PLOT_POINTS
  assert series.x[-1] == 10_000 and series.y[-1] == 1 / 10_001
  assert np.unique(np.diff(series.x)).size == 1
  assert plots.curve(records(3), 'loss', 'validation') == plots.Series([3], [7.0])
  assert plots.curve(records(3), 'nothing').x == []


def test_two_families_share_an_axis():
  plot = plots.compare({'diffusion': records(50), 'pixels': records(50, 1.0)}, 'loss', log_y=True)
  assert plot.alt == 'loss (train) over step for diffusion, pixels'
  for svg, ink in ((plot.light, plots.INK['light']), (plot.dark, plots.INK['dark'])):
    text = svg.decode()
    ElementTree.fromstring(text)
    assert ink in text and all(colour in text for colour in plots.COLOURS[:2])
  again = plots.compare({'diffusion': records(50), 'pixels': records(50, 1.0)}, 'loss', log_y=True)
  assert again == plot  # the same numbers, the same bytes
  assert plots.compare({'diffusion': records(50)}, 'nothing') is None


class Page(html.parser.HTMLParser):
  """What a browser would load, and the text it would show."""

  def __init__(self, text):
    super().__init__()
    self.tags, self.links, self.alts, self.text, self.open = [], [], [], [], []
    self.feed(text)

  def handle_starttag(self, tag, attrs):
    attrs = dict(attrs)
    self.tags.append((tag, attrs))
    self.links += [attrs[name] for name in ('src', 'srcset', 'href') if name in attrs]
    if tag == 'img':
      self.alts.append(attrs.get('alt'))
    if tag not in ('meta', 'img', 'source'):
      self.open.append(tag)

  def handle_endtag(self, tag):
    assert self.open.pop() == tag

  def handle_data(self, data):
    self.text.append(data)


@pytest.fixture
def page(tmp_path):
  picture = np.arange(12, dtype=np.uint8).reshape(2, 2, 3)
  png = report.png_bytes(picture)
  plot = plots.scatter_plot({'a <b>': plots.Series([1], [2], [0.1])}, 'x', 'y', log_x=True)
  blocks = [
    report.Text('<script>alert(1)</script>'),
    report.Picture(png, 'a 3 & a 4'),
    report.Gallery([plot]),
    report.Table(
      ['', 'FD', 'published'],
      [['row <1>', report.Cell('0.8', '± 0.1'), report.Cell('3.17', style='published')]],
      ['n=10'],
    ),
    report.Verdicts([report.Verdict('it works', 'undecided', '1 against 2')]),
    report.Facts(report.environment()),
  ]
  path = tmp_path / 'report.html'
  report.report(path, 'A & B', [report.Section('All', blocks)], 'below')
  return path.read_text(encoding='utf-8'), picture


def test_report_holds_all_it_needs(page):
  """Nothing is loaded: every link is data, the style names no address, and there is no script."""
  text, picture = page
  parsed = Page(text)
  assert not parsed.open
  assert parsed.links and all(link.startswith('data:image/') for link in parsed.links)
  assert not {'script', 'link', 'iframe', 'object'} & {tag for tag, _ in parsed.tags}
  assert not re.search(r'url\(|@import|https?://', text)
  pngs = [link for link in parsed.links if link.startswith('data:image/png')]
  assert np.array_equal(opened(base64.b64decode(pngs[0].partition(',')[2])), picture)


def test_report_escapes_and_describes(page):
  parsed = Page(page[0])
  shown = ''.join(parsed.text)
  for piece in ('<script>alert(1)</script>', 'row <1>', '± 0.1', '3.17', 'undecided', 'A & B'):
    assert piece in shown
  assert parsed.alts == ['a 3 & a 4', 'y over x for a <b>']


def test_report_is_made_for_phones_and_dark_pages(page):
  text, _ = page
  names = {attrs.get('name'): attrs.get('content') for tag, attrs in Page(text).tags}
  assert names['viewport'] == 'width=device-width, initial-scale=1'
  assert 'prefers-color-scheme: dark' in text and 'image-rendering: pixelated' in text
  scrolling = [attrs for _, attrs in Page(text).tags if attrs.get('class') == 'scroll']
  assert len(scrolling) == 1 and scrolling[0]['tabindex'] == '0'


def test_environment_says_what_a_number_was_measured_with():
  facts = report.environment()
  assert facts.keys() == {'command', 'machine', 'devices', 'date', 'versions'}
  assert re.match(r'\d+-core ', facts['machine']) and 'jax ' in facts['versions']
