"""Plots and the report."""

import base64
import html.parser
import io
import re
import xml.etree.ElementTree as ElementTree

import numpy as np
import pytest
from PIL import Image

from common.reporting import pictures, plots, provenance, report


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


def test_no_two_series_of_a_plot_look_alike():
  styles = [plots.style_of(index) for index in range(64)]
  assert len({(style.colour, style.marker) for style in styles}) == 64
  assert len({(style.colour, style.line) for style in styles[:32]}) == 32


class Page(html.parser.HTMLParser):
  """Collects the links a browser would load, and the text it would show."""

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
  png = pictures.png_bytes(picture)
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
    report.Facts(provenance.environment()),
  ]
  path = tmp_path / 'report.html'
  report.write_report(path, 'A & B', [report.Section('All', blocks)], 'below')
  return path.read_text(encoding='utf-8'), picture


def test_report_is_self_contained(page):
  """Nothing is loaded: every link is data, the style names no address, and there is no script."""
  text, picture = page
  parsed = Page(text)
  assert not parsed.open
  assert parsed.links and all(link.startswith('data:image/') for link in parsed.links)
  assert not {'script', 'link', 'iframe', 'object'} & {tag for tag, _ in parsed.tags}
  assert not re.search(r'url\(|@import|https?://', text)
  pngs = [link for link in parsed.links if link.startswith('data:image/png')]
  assert np.array_equal(
    np.asarray(Image.open(io.BytesIO(base64.b64decode(pngs[0].partition(',')[2])))), picture
  )


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
  # A picture has letters and enlarged pixels: it is shrunk to fit, and never enlarged.
  assert 'figure.picture img { width: auto; max-width: 100%; }' in text
  assert 'prefers-color-scheme: dark' in text and 'wider than the screen scrolls sideways' in text
  scrolling = [attrs for _, attrs in Page(text).tags if attrs.get('class') == 'scroll']
  assert len(scrolling) == 1 and scrolling[0]['tabindex'] == '0'


def test_environment_lists_the_conditions_of_a_measurement():
  facts = provenance.environment()
  assert facts.keys() == {'command', 'machine', 'devices', 'date', 'versions', 'code'}
  assert re.match(r'\d+-core ', facts['machine']) and 'jax ' in facts['versions']


@pytest.mark.parametrize('largest', [50.0, 1e4, 1e8, 1e30])
def test_a_logarithmic_axis_has_labels_over_any_number_of_decades(largest):
  points = plots.Series([1, 2], [1.0, largest])
  plot = plots.line_plot({'a': points}, 'x', 'y', log_y=True)
  # Matplotlib writes each text into the SVG as a comment; those of the other axis lie in [1, 2].
  labels = {float(text) for text in re.findall(rb'<!-- (\d[^ ]*) -->', plot.light)}
  assert sum(2 < label <= largest for label in labels) >= 2
