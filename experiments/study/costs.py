"""The data and the training costs of the models of a study, before anything is trained."""

import functools
import json
from collections.abc import Mapping
from typing import Any

from absl import logging

from common.baselines.vae.first_stage import untrained
from common.config import ConfigError, flatten, to_json
from common.data import pipeline
from common.data.spec import DataSpec, latent_spec
from common.studies.plans import Job, PaperTraining
from common.training.program import TrainingCost, training_cost
from experiments import families
from experiments.compile import data as descriptions
from experiments.startup import datasets, sources
from experiments.startup import workdir as workdirs


def cost_of(job: Job) -> TrainingCost:
  """The cost of training the model of a job, from its shapes alone; its data need not be here.

  Raises:
    ConfigError: for a config that cannot be trained, or data that cannot be read.
  """
  if job.stage is None:
    return _cost(settings_of(job), given=_given(job))
  found = _cost(settings_of(job), settings_of(job.stage), _given(job.stage))
  return found._replace(stage=cost_of(job.stage))


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
def _cost(config: str, stage: str = '', given: str = '{}') -> TrainingCost:
  config = json.loads(config)
  spec = _spec(to_json((json.loads(stage) if stage else config)['data']), given)
  if stage:
    spec = latent_spec(spec, untrained(json.loads(stage), spec))
  return training_cost(config, families.build(config, spec), spec)


def spec_of(job: Job, described: bool = False) -> DataSpec:
  """The description of a job's data, also of latents whose first stage is not trained yet.

  Args:
    job: the job.
    described: whether data that are not here may be described by the paper or by their settings.

  Raises:
    ConfigError: the data are not prepared, or not found.
  """
  if job.stage is None:
    section = to_json(job.config['data'])
    return _spec(section, _given(job)) if described else data_of(section).spec
  images = spec_of(job.stage, described)
  return latent_spec(images, untrained(job.stage.config, images))


def _given(job: Job) -> str:
  """The training of the paper of a row, as far as it describes data."""
  paper = job.row.paper_training
  return to_json({} if paper is None else {'config': paper.config, 'spec': dict(paper.spec)})


def _spec(section: str, given: str) -> DataSpec:
  """The description of the data of a section, which need not be here."""
  try:
    return data_of(section).spec
  except (ConfigError, OSError) as error:
    try:
      unnamed = json.loads(section) | {'source': ''}  # a file that is not here describes nothing
      found = descriptions.spec_of(unnamed, _spec_of_paper(unnamed, json.loads(given)))
    except ConfigError:
      raise error from None  # which says how to get the data
    logging.log_first_n(logging.WARNING, '%s; until then, described without it', 1, error)
    return found


def _spec_of_paper(section: Mapping[str, Any], paper: Mapping[str, Any]) -> dict[str, Any]:
  """What a paper's training says of data, if they are those of a section."""
  if not paper:
    return {}
  theirs = families.load_config(paper['config'], {})['data']
  same = all(theirs[key] == section[key] for key in ('name', 'image_size'))
  return _tuples(paper['spec']) if same else {}


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
  spec = descriptions.spec_of(config['data'], _tuples(given['spec']))
  return training_cost(config, families.build(config, spec), spec)


def _tuples(spec: Mapping[str, Any]) -> dict[str, Any]:
  """Shapes as tuples again, which JSON has as lists."""
  return {k: tuple(v) if isinstance(v, list) else v for k, v in spec.items()}


# Rows of baselines follow each other, and share what is read of their data.
@functools.lru_cache(maxsize=1)
def data_of(section: str) -> pipeline.Data:
  """The data of a section as JSON text."""
  return datasets.load(json.loads(section))
