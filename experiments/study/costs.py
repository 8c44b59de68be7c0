"""The data and the training costs of the models of a study, before anything is trained."""

import functools
import json
from collections.abc import Mapping
from typing import Any

from common.baselines.vae.first_stage import untrained
from common.config import flatten, to_json
from common.data import pipeline
from common.data.spec import DataSpec, latent_spec
from common.studies.plans import Job, PaperTraining
from common.training.program import TrainingCost, training_cost
from experiments import families
from experiments.compile import data as described
from experiments.startup import datasets, sources
from experiments.startup import workdir as workdirs


def cost_of(job: Job) -> TrainingCost:
  """The cost of training the model of a job, from its shapes alone.

  Raises:
    ConfigError: for a config that cannot be trained, or data that cannot be read.
  """
  if job.stage is None:
    return _cost(settings_of(job))
  return _cost(settings_of(job), settings_of(job.stage))._replace(stage=cost_of(job.stage))


def settings_of(job: Job) -> str:
  """The settings on which the cost of a job's model depends; seeds share them."""
  # As `runs.train` completes a config.
  config = sources.with_source(job.config, flatten(job.config).keys())
  data = workdirs.data_section(config, job.folder)
  if job.stage is not None:
    data['first_stage'] = ''  # its folder depends on the seed, and need not exist yet
  return to_json(config | {'data': data, 'seed': 0})


# Rows that differ only in sampler options share a cost.
@functools.lru_cache(maxsize=256)
def _cost(config: str, stage: str = '') -> TrainingCost:
  config = json.loads(config)
  spec = data_of(to_json(config['data'])).spec
  if stage:
    spec = latent_spec(spec, untrained(json.loads(stage), spec))
  return training_cost(config, families.build(config, spec), spec)


def spec_of(job: Job) -> DataSpec:
  """The description of a job's data, also of latents whose first stage is not trained yet."""
  if job.stage is None:
    return data_of(to_json(job.config['data'])).spec
  images = spec_of(job.stage)
  return latent_spec(images, untrained(job.stage.config, images))


def paper_cost(paper: PaperTraining) -> TrainingCost:
  """The cost of the training that a paper published, from its config; its data need not be there.

  Raises:
    ConfigError: for a config that cannot be trained, or data that the spec does not describe.
  """
  given = {'spec': dict(paper.spec), 'settings': dict(paper.settings)}
  return _paper_cost(paper.config, to_json(given))


@functools.lru_cache(maxsize=64)
def _paper_cost(file: str, given: str) -> TrainingCost:
  given = json.loads(given)
  config = families.load_config(file, given['settings'])
  spec = described.spec_of(config['data'], _tuples(given['spec']))
  return training_cost(config, families.build(config, spec), spec)


def _tuples(spec: Mapping[str, Any]) -> dict[str, Any]:
  """Shapes as tuples again, which JSON has as lists."""
  return {k: tuple(v) if isinstance(v, list) else v for k, v in spec.items()}


# Rows of baselines follow each other, and share what is read of their data.
@functools.lru_cache(maxsize=1)
def data_of(section: str) -> pipeline.Data:
  """The data of a section as JSON text."""
  return datasets.load(json.loads(section))
