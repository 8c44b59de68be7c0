"""Parts of a study, by row and by seed."""

import pytest

from common.config import ConfigError
from common.studies import plans
from common.studies.claims import Claim
from common.studies.plans import Row, Stability, Study
from common.studies.selection import folder_of, select
from tests.common.studies.test_first_stages import load

ROWS = (
  Row('VAE', base='vae'),
  Row('latents', first_stage='VAE'),
  Row('slow', {'train.steps': '2'}),
  Row('fast', {'train.steps': '3'}),
  Row('fast, 1e-2', {'optimizer.learning_rate': 1e-2}, tries_of='fast'),
  Row('both', ensemble=('slow', 'fast')),
  Row('VAE (small)', {'train.steps': '4'}, base='vae'),
)
STUDY = Study(
  'toy',
  'Toy',
  'diffusion',
  ROWS,
  ('frechet', 'stable_runs'),
  about='A toy.',
  paper='A paper, table 1',
  published={('slow', 'frechet'): 1.0, ('latents', 'frechet'): 2.0},
  claims=(
    Claim('slow is better', ('slow', 'frechet'), below=('fast', 'frechet')),
    Claim('latents are good', (('latents', 'VAE'), 'frechet'), below=3.0),
  ),
  seeds=(0, 1),
  stability=Stability('frechet', 2.0),
)


@pytest.mark.parametrize(
  ('only', 'rows'),
  [
    ('^slow$', ['slow']),
    ('(f)', ['fast', 'fast, 1e-2']),
    ('VAE (small)', ['VAE (small)']),
    ('lat', ['VAE', 'latents']),
    ('1e-2', ['fast', 'fast, 1e-2']),
    ('both', ['slow', 'fast', 'fast, 1e-2', 'both']),
    ('slow|VAE', ['VAE', 'slow', 'VAE (small)']),
  ],
)
def test_a_part_has_the_rows_that_match_and_what_they_need(only, rows):
  assert [row.name for row in select(STUDY, only).rows] == rows


def test_claims_and_published_cells_of_other_rows_are_left_out(tmp_path):
  part = select(STUDY, 'latents')
  assert part.published == {('latents', 'frechet'): 2.0}
  assert [claim.text for claim in part.claims] == ['latents are good']
  assert part.about == 'A toy. Here only the rows of --only=latents.'
  assert select(STUDY, '^slow$').claims == ()
  for only in ('', 'slow', 'latents', 'both', 'fast'):
    plans.plan(select(STUDY, only), load, tmp_path, ('frechet',))


def test_a_part_shares_models_and_cells_with_the_whole_study(tmp_path):
  whole = plans.plan(STUDY, load, tmp_path, ('frechet',))
  part = plans.plan(select(STUDY, 'latents', [1]), load, tmp_path, ('frechet',))
  known = {(job.row.name, job.seed): (job.folder, job.keys) for job in whole}
  assert [(job.row.name, job.seed) for job in part] == [('VAE', 1), ('latents', 1)]
  assert all(known[job.row.name, job.seed] == (job.folder, job.keys) for job in part)


def test_other_seeds_take_the_place_of_those_of_the_study():
  assert select(STUDY, seeds=[3, 1, 2]).seeds == (3, 1, 2)
  assert select(STUDY) == STUDY


def test_tables_of_a_part_stand_beside_those_of_the_whole_study(tmp_path):
  assert folder_of(tmp_path, '', ()) == tmp_path
  assert folder_of(tmp_path, '^(GAN|VAE)$', (0, 1)) == tmp_path / 'parts' / 'GAN_VAE_-seeds_0_1'
  assert folder_of(tmp_path, '', (3,)) == tmp_path / 'parts' / 'seeds_3'
  assert folder_of(tmp_path, '^.', ()).parent == tmp_path / 'parts'


@pytest.mark.parametrize(
  ('only', 'message'),
  [
    ('nothing', "--only='nothing' matches no row; rows: VAE; latents; slow; "),
    ('(', r"--only='\(' must be a regular expression: "),
  ],
)
def test_a_part_that_does_not_exist_is_refused(only, message):
  with pytest.raises(ConfigError, match=message):
    select(STUDY, only)
