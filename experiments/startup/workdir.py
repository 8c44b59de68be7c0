"""The folder of a run: one config, one dataset, and one process that trains at a time."""

import contextlib
import functools
import itertools
import json
import os
from collections.abc import Iterator, Mapping
from typing import Any

import jax
from absl import logging

from common.checkpoints import records, storage
from common.checkpoints.resume import is_changeable
from common.config import ConfigError, differences, flatten, read_json, to_json
from common.data import pipeline
from common.devices.processes import agreed, check_equal, check_shared
from common.files import (
  Path,
  atomic_write,
  check_writable,
  exclusive,
  exists,
  rename_folder,
  to_path,
)
from common.reporting import provenance
from experiments import families
from experiments.startup import datasets

log_once = functools.cache(logging.info)
MOST_SHOWN = 5  # differences that a message lists: what to do comes after them
ANOTHER = 'choose another --workdir, or add --fresh to rename that run and start a new one'


def check_path(workdir: str | os.PathLike) -> Path:
  """The path of a folder that a run can be written to; nothing is created yet.

  Raises:
    ConfigError: the name is empty, or the folder cannot be created or written to.
  """
  if not str(workdir).strip():
    raise ConfigError('--workdir is empty; name the folder of the run, such as runs/digits')
  try:
    path = to_path(workdir)
    check_writable(path)
  except ValueError as error:
    raise ConfigError(f'--workdir={workdir} {error}; choose another --workdir') from error
  return path


def starting() -> contextlib.AbstractContextManager[None]:
  """If one process of a run cannot start, none does: for the work of all, or of process 0 alone."""
  return agreed(Exception, ConfigError, 'could not start: its own message says why')


def check_processes(
  workdir: Path, config: Mapping, data: pipeline.Data, options: Mapping[str, bool]
) -> None:
  """Checks that the processes of a run have one command, the same data and a shared folder.

  Args:
    workdir: the folder of the run.
    config: a complete config.
    data: the data to train on.
    options: other flags of the command.

  Raises:
    ConfigError: on all processes.
  """
  if jax.process_count() == 1:
    return
  # Each machine may have the data in a folder of its own.
  local = {'data': {key: value for key, value in config['data'].items() if key != 'dir'}}
  check_equal('config', {**config, **local, **options}, 'start all with the same command')
  check_equal('dataset', datasets.identity(data), 'give all the same data')
  check_shared(workdir)


@contextlib.contextmanager
def locked(workdir: Path) -> Iterator[None]:
  """Keeps other runs from training in the folder, which is created if it is missing.

  Raises:
    ConfigError: another process is training there.
  """
  with contextlib.ExitStack() as stack:
    with starting():
      if jax.process_index() == 0:  # for all processes of the run
        workdir.mkdir(parents=True, exist_ok=True)
        try:
          stack.enter_context(exclusive(workdir / '.lock'))
        except BlockingIOError as error:
          raise ConfigError(
            f'{workdir} is in use by {error.strerror}: wait for it, stop it, or choose another '
            '--workdir'
          ) from None
    yield


def is_started(workdir: Path) -> bool:
  """Whether the folder holds a checkpoint."""
  return bool(_checkpoint_steps(workdir))


def last_step(workdir: Path) -> int:
  """The step of the newest checkpoint in the folder; 0 if there is none."""
  return max(_checkpoint_steps(workdir), default=0)


def _checkpoint_steps(workdir: Path) -> list[int]:
  return storage.finished_steps(workdir / 'checkpoints')


def reserve(
  workdir: Path, config: Mapping, data: pipeline.Data, extend_to: int | None = None
) -> None:
  """Reserves a folder for one config and one dataset.

  Writes the config, the fingerprint of the data and the code and versions of this start, unless the
  folder holds a run of another config or on other data.

  Args:
    workdir: the folder of the run.
    config: a complete config.
    data: the data to train on.
    extend_to: the new number of steps, if the run in the folder may get another one.

  Raises:
    ConfigError: the folder holds a run of another config or on other data, or its files cannot be
      read; or the run to extend has more steps.
  """
  path, data_path = workdir / 'config.json', workdir / 'data.json'
  identity = datasets.identity(data)
  if path.exists() or is_started(workdir):
    _check_same_config(workdir, config, extend_to)
    # A run from before fingerprints existed gets the fingerprint of the present data.
    before = datasets.remembered(workdir)
    if is_started(workdir):  # before its first checkpoint, a run has nothing to lose
      datasets.check_first_stage(workdir, data, before)
    before = before or identity
    if before != identity:
      raise ConfigError(
        f'the data of the run in {workdir} has changed since it began ({before.get("train")} '
        f'training examples then, {identity["train"]} now): restore the data, {ANOTHER}'
      )
  # First the data: a folder with a config must have them.
  atomic_write(data_path, json.dumps(identity))
  # Written at every start, because some settings may change (common/checkpoints/resume.py).
  atomic_write(path, to_json(config))
  provenance.remember(workdir)


def move_aside(workdir: Path) -> None:
  """Renames WORKDIR, if it exists, to the first of WORKDIR.1, WORKDIR.2, ... that does not exist.

  Raises:
    ConfigError: another process is training there.
  """
  if not workdir.exists():
    return
  with locked(workdir):
    if jax.process_index() == 0:
      names = (workdir.with_name(f'{workdir.name}.{n}') for n in itertools.count(1))
      free = next(name for name in names if not name.exists())
      rename_folder(workdir, free)
      logging.info('renamed the existing run to %s', free)


def _check_same_config(workdir: Path, config: Mapping, extend_to: int | None) -> None:
  changed = differences(_completed(config)[0], config_of(workdir))
  changed = {k: v for k, v in changed.items() if not is_changeable(k)}
  if extend_to is not None:
    done = last_step(workdir)
    if extend_to < done:
      raise ConfigError(
        f'--extend: the run in {workdir} has {done} steps already; set train.steps to more than '
        f'{done}, got {extend_to}'
      )
    changed.pop('train.steps', None)
  if changed.keys() == {'train.steps'}:
    old, new = changed['train.steps']
    raise ConfigError(
      f'{workdir} holds a run of {old} steps, not {new}: add --extend to continue it, {ANOTHER}'
    )
  if changed:
    # The family first: most other settings follow from it.
    names = sorted(changed, key=lambda name: '.' in name)
    shown = [f'{name}: there {changed[name][0]!r}, now {changed[name][1]!r}' for name in names]
    if len(shown) > MOST_SHOWN:
      shown[MOST_SHOWN:] = [f'{len(shown) - MOST_SHOWN} more']
    shown = '; '.join(shown)
    raise ConfigError(f'{workdir} holds a run of another config ({shown}); {ANOTHER}')


def data_section(config: Mapping, workdir: Path) -> dict[str, Any]:
  """The section `data` with the folders of its tokenizer and of its first stage.

  A first stage that is not in its place may be next to the run. The tokenizer is in the run's
  folder once it has begun, and before that in `finetune.source`.
  """
  settings = dict(config['data'])
  if settings['tokenizer'] == 'files' and not settings['tokenizer_files']:
    source = config['finetune']['source']
    if (workdir / 'tokenizer.json').is_file():
      settings['tokenizer_files'] = str(workdir)
    elif source:
      settings['tokenizer_files'] = source
  # Runs that have moved together, such as the models of a study: the digest is checked later.
  if (stage := settings.get('first_stage', '')) and not to_path(stage.partition('@')[0]).exists():
    beside = workdir.parent / stage.rpartition('/')[2]
    if workdir.parent.joinpath(beside.name.partition('@')[0]).is_dir():
      settings['first_stage'] = str(beside)
  return settings


def config_of(workdir: Path) -> dict[str, Any]:
  """The config of the run in a folder. Settings that it lacks because they are newer have defaults.

  Raises:
    ConfigError: the folder holds no run, or its file does not hold the config of a run.
  """
  path = workdir / 'config.json'
  if exists(path):
    config = read_json(path)
  elif steps := _checkpoint_steps(workdir):
    config = _recorded_config(workdir, steps)
  else:
    raise ConfigError(f'{workdir} holds no run (no config.json); train one with twofold train')
  if 'family' not in config:
    raise ConfigError(f'{path} must be the config of a run, but it names no family')
  config, added = _completed(config)
  if added:
    # A command may read a config twice.
    log_once('%s lacks these newer settings, which get their defaults: %s', path, ', '.join(added))
  return config


def _recorded_config(workdir: Path, steps: list[int]) -> dict[str, Any]:
  """The config in the record of the newest checkpoint that can be read."""
  for step in reversed(steps):
    folder = workdir / 'checkpoints' / str(step)
    with contextlib.suppress(records.DamagedCheckpoint):
      config = records.read_sealed(folder, records.RECORD)['config']
      logging.warning('%s has no config.json; its config is that of checkpoint %d', workdir, step)
      return config
  raise ConfigError(
    f'{workdir} has checkpoints, but no config.json, and no checkpoint has a readable record: '
    'restore the file, or choose another --workdir'
  )


def _completed(config: Mapping) -> tuple[dict[str, Any], list[str]]:
  """A config with a value for every setting, and the names of the settings that it lacked."""
  whole = families.complete(config)
  return whole, sorted(flatten(whole).keys() - flatten(config).keys())
