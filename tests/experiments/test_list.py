"""Everything that a flag can name is listed, with a line, its settings and their meanings."""

import pathlib

import pytest

from common.config import ConfigError, flatten
from experiments import families
from experiments.families import FAMILIES
from experiments.list import pages, papers
from experiments.list.kinds import KINDS
from experiments.list.show import explanations, show

ROOT = pathlib.Path(__file__).parents[2]
WIDTH = 125  # characters that a line about a name may have


@pytest.mark.parametrize('kind', KINDS)
def test_every_name_has_a_line_and_every_setting_a_meaning(kind):
  entries = KINDS[kind].read()
  assert len({(entry.name, entry.family, entry.line) for entry in entries}) == len(entries) > 0
  missing = [entry.name for entry in entries if not 0 < len(entry.line) <= WIDTH]
  assert not missing, f'a docstring must open with one line about each of {missing}'
  silent = [f'{e.name}.{s.name}' for e in entries for s in e.settings if not s.meaning]
  assert not silent, f'say under Attributes, or in the comment of a base config, what {silent} mean'


def test_every_component_of_a_config_is_listed():
  flags = ' '.join(kind.flag for kind in KINDS.values())
  for family in FAMILIES.values():
    for path, table in family.tables.components.items():
      assert f'--config.{path}.name=' in flags
      listed = {e.name for k in KINDS.values() if f'.{path}.name=' in k.flag for e in k.read()}
      assert set(table) <= listed


def test_a_line_and_settings_of_one_sampler():
  """In the order of the signature, with the meanings that several settings share."""
  text = pages.listing('edm')
  lines = text.splitlines()
  start = next(n for n, line in enumerate(lines) if line.startswith("edm: Heun's method"))
  names = [line.split('=')[0].strip() for line in lines[start + 1 : start + 5]]
  assert names == ['s_churn', 's_tmin', 's_tmax', 's_noise']
  assert 's_tmin=0.0' in text and text.count('noise levels σ/α between which noise is added') == 2
  assert 'sigma_data=0.5' in text  # also a weighting and a process have this name
  assert text.count('--config.') >= 3


def test_the_last_part_of_a_name_is_enough():
  assert 'rescale=0.0' in pages.listing('guidance')
  assert 'configs/diffusion/images.py:digits_eps' in pages.listing('digits_eps')


def test_an_unknown_kind_or_name_is_refused_with_the_nearest():
  with pytest.raises(ConfigError, match=r"'smaplers'; did you mean 'samplers'\? kinds: commands, "):
    pages.listing('smaplers')
  with pytest.raises(ConfigError, match="did you mean 'dpmpp_2m'"):
    pages.listing('dpmpp2m')
  with pytest.raises(ConfigError, match="did you mean 'samplers'"):
    pages.listing('SAMPLERS')


def test_the_reference_is_fresh():
  text = (ROOT / 'docs' / 'reference.md').read_text(encoding='utf-8')
  assert text == pages.reference() + '\n', 'docs/reference.md is stale: run `make reference`'


def test_the_page_of_papers_is_fresh():
  text = (ROOT / 'docs' / 'papers.md').read_text(encoding='utf-8')
  assert text == papers.page() + '\n', 'docs/papers.md is stale: run `make reference`'


def test_every_paper_says_what_it_reproduces_and_what_is_missing():
  found = papers.papers()
  assert len(found) >= 5
  for paper in found:
    assert {'Reproduces', 'To expect', 'Not here yet'} <= paper.sections.keys(), paper.file
    trains = [line for line in paper.commands if line.startswith('twofold train ')]
    assert trains and f'--config={paper.file}:' in trains[0]
    # A title ends where the first blank line is, and the rest is in no other section.
    assert len(paper.title) < 120 and 'Reproduces' not in paper.title + ''.join(paper.notes)


def test_the_sections_of_a_docstring():
  docstring = """A title
  in two lines.

  twofold train --config=configs/papers/it.py:a --workdir=runs/a     --config.data.source=FILE

  FILE is text.

  Reproduces: table 1;
  and table 2.

  Settings: the paper.

  To expect, not measured here, in bits:

    a  1.0

  a is best.

  What the papers do and this code does not yet:

  - One thing.
  - Another.
  """
  docstring = '\n'.join(line.removeprefix('  ') for line in docstring.splitlines())
  paper = papers.read('configs/papers/it.py', docstring, ['a'])
  assert paper.title == 'A title in two lines.' and paper.notes == ('FILE is text.',)
  assert paper.commands[0].startswith('twofold train') and len(paper.commands) == 1
  assert {name: len(parts) for name, parts in paper.sections.items()} == {
    'Reproduces': 2,
    'To expect': 3,
    'Not here yet': 2,
  }


@pytest.mark.parametrize('family', FAMILIES)
def test_show_explains_every_setting_and_marks_those_that_differ(family):
  config = families.load_config(f'{family}/images:digits', {'optimizer.groups': {}})
  lines = show(config).splitlines()[1:]
  shown = {line[2:].partition(' = ')[0]: line for line in lines}
  assert shown.keys() == flatten(config).keys()
  assert not [path for path, line in shown.items() if '  # ' not in line]
  assert shown['seed'].startswith('  seed = 0') and shown['data.batch_size'].startswith('* ')
  assert shown['data.batch_size'].endswith('; default: 128')
  component = next(iter(FAMILIES[family].tables.components))
  assert list(shown).index('train.steps') < list(shown).index(f'{component}.name')


def test_explanations_are_those_of_the_chosen_component():
  config = families.load_config('diffusion/images:digits', {'process': {'name': 've'}})
  found = explanations(config)
  assert found['process.name'].startswith('Variance exploding')
  assert found['process.sigma_max'].startswith('σ at time 0') and 'process.s' not in found
  assert found['sampling.sampler.space'].startswith('the variable of integration')
