"""The data of a config: a dataset as it is stored, or its latents under a first stage."""

from collections.abc import Mapping
from typing import Any

from common.baselines.vae import first_stage
from common.config import ConfigError, read_json
from common.data import pipeline
from common.data.builders import BUILDERS
from common.files import Path


def load(settings: Mapping[str, Any], in_memory: bool | None = None) -> pipeline.Data:
  """Opens the data of a `data` section; see `pipeline.load`.

  With `data.first_stage`, images are encoded once and stored as latents.

  Raises:
    ConfigError: for a dataset that cannot be opened, or a first stage that does not suit it.
    CheckpointError: for a first stage that is damaged.
  """
  data = pipeline.load(settings, in_memory)
  source = settings.get('first_stage', '')
  if not source:
    return data
  stage = first_stage.read(source, data.spec, pipeline.fingerprint(data))
  return pipeline.with_latents(data, stage, settings)


def of_another(settings: Mapping[str, Any], name: str) -> dict[str, Any]:
  """The `data` section for another dataset; its source and size are those of a run's own data."""
  changed = dict(settings) | {'name': name, 'source': ''}
  resized = name in BUILDERS and 'image_size' in BUILDERS[name].flags
  return changed if resized else changed | {'image_size': 0}


def identity(data: pipeline.Data) -> dict[str, str | int]:
  """What a run remembers of its data: WORKDIR/data.json."""
  known = {'fingerprint': pipeline.fingerprint(data), 'train': data.spec.num_train}
  latents = data.spec.latents
  return known if latents is None else known | {'first_stage': latents.digest}


def check_first_stage(workdir: Path, data: pipeline.Data, then: Mapping[str, Any]) -> None:
  """Checks that the first stage of a run is the one that it was trained with.

  Args:
    workdir: the folder of the run.
    data: its data as they are.
    then: what it remembers of its data.

  Raises:
    ConfigError: the first stage has other weights, or the run remembers none.
  """
  if data.spec.latents is None:
    return
  if 'first_stage' not in then:
    raise ConfigError(
      f'{workdir}/data.json must have the digest of the first stage, but '
      f'{"has none" if then else "is missing"}: restore the file, or train anew with --fresh'
    )
  before, found = then['first_stage'], data.spec.latents
  if before != found.digest:
    raise ConfigError(
      f'the first stage {found.first_stage.name} has digest {found.digest}, and the run in '
      f'{workdir} was trained on latents of one with digest {before}: restore it, name its step as '
      'WORKDIR@STEP, or train the run anew'
    )


def remembered(workdir: Path) -> dict[str, Any]:
  """What a run remembers of its data; {} for a run from before that was written."""
  path = workdir / 'data.json'
  return read_json(path) if path.exists() else {}
