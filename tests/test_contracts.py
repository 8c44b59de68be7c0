"""Every name in a table is held to its contract; whoever adds one is told which file to edit."""

import dataclasses
import pathlib
import re

import pytest

from autoregressive.networks import NETWORKS as CAUSAL_NETWORKS
from autoregressive.networks.transformer import Transformer
from autoregressive.orderings import ORDERINGS
from common import config_files
from common.baselines.gan.discriminators import DISCRIMINATORS
from common.baselines.gan.generators import GENERATORS
from common.baselines.gan.losses import LOSSES
from common.baselines.vae.latents import LATENTS
from common.baselines.vae.networks import NETWORKS as AUTOENCODERS
from common.baselines.vae.pixels import PIXELS as PIXEL_DISTRIBUTIONS
from common.data.builders import BUILDERS
from common.data.tokenizers import TOKENIZERS
from common.domains import DOMAINS
from common.evaluation.images.features import EXTRACTORS
from common.evaluation.metrics import METRICS
from common.studies.plans import Study, plan
from common.training.optimizers import LR_SCHEDULES, OPTIMIZERS
from diffusion.likelihood import LIKELIHOODS
from diffusion.networks import CLASSIFIERS, NETWORKS
from diffusion.objectives import TIME_DISTRIBUTIONS, WEIGHTINGS
from diffusion.sampling.driver import SAMPLERS
from diffusion.sampling.grids import GRIDS
from diffusion.sampling.tasks import TASKS
from experiments import families
from experiments.study.run_metrics import RUN_METRICS
from tests.autoregressive.networks import test_networks, test_pixelcnn
from tests.common.baselines.gan.small import NETWORKS as GAMES
from tests.diffusion.networks.small import SMALL
from tests.diffusion.sampling import test_solvers
from tests.experiments import published
from tests.experiments.commands import ended

ROOT = pathlib.Path(__file__).parents[1]


def types(objects):
  return {type(thing) for thing in objects}


def names_of(table, constructors):
  return {name for name, constructor in table.items() if constructor in constructors}


# Its error is set by its tolerance, not by its grid: `test_marginal_of_the_adaptive_flow`.
ADAPTIVE = {'adaptive'}
DETERMINISTIC = {name: kind for name, kind in SAMPLERS.items() if kind().deterministic}
ORDERS, MARGINALS = test_solvers.ORDERS, test_solvers.MARGINALS
RECURRENT, PIXELS = test_networks.VARIANTS, test_pixelcnn.NETWORKS

# {kind: (names in the table, names that are held to it, the contract, where to add one)}
CONTRACTS = {
  'deterministic sampler': (
    set(DETERMINISTIC) - ADAPTIVE,
    names_of(SAMPLERS, types(row[0] for row in ORDERS)),
    'its order of convergence',
    'ORDERS in tests/diffusion/sampling/test_solvers.py',
  ),
  'sampler': (
    set(SAMPLERS) - ADAPTIVE,
    names_of(SAMPLERS, types(row[0] for row in MARGINALS.values())),
    'the mean and covariance of its samples',
    'MARGINALS in tests/diffusion/sampling/test_solvers.py',
  ),
  'diffusion network': (
    set(NETWORKS),
    {settings['name'] for settings in SMALL.values()},
    'gradients, labels, dropout and precision',
    'SMALL in tests/diffusion/networks/small.py',
  ),
  'generator': (
    set(GENERATORS),
    {networks['generator']['name'] for networks in GAMES.values()},
    "gradients of each player's own loss, splits of the batch and of the devices",
    'NETWORKS in tests/common/baselines/gan/small.py',
  ),
  'discriminator': (
    set(DISCRIMINATORS),
    {networks['discriminator']['name'] for networks in GAMES.values()},
    'the same, and singular values of 1 under spectral norm',
    'NETWORKS in tests/common/baselines/gan/small.py',
  ),
  'causal network': (
    # Others see one position alone: tests/autoregressive/networks/test_nbeats.py.
    {name for name, network in CAUSAL_NETWORKS.items() if not network.direct},
    names_of(CAUSAL_NETWORKS, types([*RECURRENT.values(), *PIXELS.values()]) | {Transformer}),
    'causality by gradient, and equal results with and without a cache',
    'VARIANTS in tests/autoregressive/networks/test_networks.py',
  ),
}

# Tables whose names have tests of their own: {kind: (table, file or folder of tests)}.
TESTED = {
  'weighting': (WEIGHTINGS, 'tests/diffusion/objectives/test_weightings.py'),
  'distribution of times': (TIME_DISTRIBUTIONS, 'tests/diffusion/objectives/test_times.py'),
  'grid': (GRIDS, 'tests/diffusion/sampling/test_grids.py'),
  'task': (TASKS, 'tests'),
  'likelihood': (LIKELIHOODS, 'tests/diffusion'),
  'autoencoder': (AUTOENCODERS, 'tests/common/baselines/vae'),
  'latents of an autoencoder': (LATENTS, 'tests/common/baselines/vae'),
  'distribution of pixels': (PIXEL_DISTRIBUTIONS, 'tests/common/baselines/vae'),
  'network of a classifier': (CLASSIFIERS, 'tests/diffusion'),
  'loss of a GAN': (LOSSES, 'tests/common/baselines/gan/test_method.py'),
  'ordering': (ORDERINGS, 'tests/autoregressive'),
  'metric': (METRICS, 'tests/common/evaluation'),
  'extractor': (EXTRACTORS, 'tests/common/evaluation/test_evaluate.py'),
  'dataset': (BUILDERS, 'tests/common/data'),
  'tokenizer': (TOKENIZERS, 'tests/common/data'),
  'domain': (DOMAINS, 'tests/common/domains'),
  'optimizer': (OPTIMIZERS, 'tests/common/training/test_optimizers.py'),
  'schedule': (LR_SCHEDULES, 'tests/common/training/test_optimizers.py'),
}
STUDIES = {
  f'{file}:{scale}': config_files.call(f'{file}:{scale}', 'get_study', Study)
  for file in config_files.shipped_files('get_study')
  for scale in config_files.load_module(file).SCALES
}
SMOKES = [spec for spec in STUDIES if spec.endswith(':smoke')]
# tests/experiments/test_published_studies.py runs these.
OF_PUBLISHED_DATA = [f'configs/ablations/{name}.py:smoke' for name in published.STUDIES]


def mention(name, thing):
  """A pattern of 'name', name=..., the class of that name, or a test of that name."""
  own = rf'|\b{thing.__name__}\b' if isinstance(thing, type) else ''
  return rf"'{name}\b|\b{name}=|test_{name}{own}"


@pytest.mark.parametrize('kind', CONTRACTS)
def test_every_name_is_held_to_its_contract(kind):
  names, held, contract, place = CONTRACTS[kind]
  missing = sorted(names - held)
  assert not missing, f'hold the {kind} {missing} to {contract}: add it to {place}'


@pytest.mark.parametrize('kind', TESTED)
def test_every_name_is_tested(kind):
  table, place = TESTED[kind]
  path = ROOT / place
  files = [path] if path.is_file() else sorted(path.rglob('test_*.py'))
  text = '\n'.join(file.read_text(encoding='utf-8') for file in files)
  missing = [name for name, thing in table.items() if not re.search(mention(name, thing), text)]
  assert not missing, f'test the {kind} {missing} in {place}'


@pytest.mark.parametrize('spec', STUDIES)
def test_a_study_can_be_planned_and_has_a_small_scale(spec, tmp_path):
  study = STUDIES[spec]
  study = dataclasses.replace(study, seeds=study.seeds[:1])  # others plan the same jobs again
  known = [*METRICS, *RUN_METRICS]
  jobs = plan(study, families.load_config, tmp_path, known)
  assert len(jobs) >= len(study.rows)
  if spec.endswith(':smoke'):
    steps = {job.row.name: job.config['train']['steps'] for job in jobs if job.row.is_model}
    assert all(int(number) <= 40 for number in steps.values()), steps
  assert spec.rpartition(':')[0] + ':smoke' in STUDIES, f"give {spec} the scale 'smoke'"


def test_studies_have_names_of_their_own():
  """A workdir is that of one study, by its name."""
  files = {(study.name, spec.rpartition(':')[0]) for spec, study in STUDIES.items()}
  assert len(dict(files)) == len(files)


@pytest.mark.slow
@pytest.mark.parametrize('spec', [spec for spec in SMOKES if spec not in OF_PUBLISHED_DATA])
def test_the_smoke_scale_of_a_study_runs(spec, tmp_path):
  code, printed, said = ended('ablate', f'--study={spec}', f'--workdir={tmp_path}')
  assert code == 0, said
  assert all(f'| {row.name} |' in printed for row in STUDIES[spec].rows)
  assert (tmp_path / 'report.html').is_file()
