"""What a workdir holds: one study, and no results of other code unasked."""

import itertools
import logging
import pathlib
from collections.abc import Collection, Sequence

from common.config import ConfigError, read_json, to_json
from common.files import atomic_write, rename_folder
from common.reporting import provenance
from common.studies import studies
from common.studies.cells import CellStore
from common.studies.plans import Job, Study
from experiments.startup import workdir as workdirs

REFUSE, KEEP, AGAIN = CHOICES = ('refuse', 'keep', 'again')
HELP = (
  'What happens to models and cells in the workdir that another version of the code made: refuse '
  'stops, keep takes them as they are (cells of unknown code are measured again), again trains and '
  'measures once more.'
)
BEFORE = 'before'  # in the workdir: what was set aside
UNKNOWN = 'code that was not recorded'


def reserve(workdir: pathlib.Path, study: Study) -> None:
  """Reserves a folder for a study, at any of its scales, whose tables no other may replace.

  Raises:
    ConfigError: the folder is that of another study.
  """
  path = workdir / 'study.json'
  found = read_json(path)['study'] if path.exists() else study.name
  if found != study.name:
    raise ConfigError(
      f'{workdir} holds the study {found!r}, not {study.name!r}: choose another --workdir'
    )
  atomic_write(path, to_json({'study': study.name}))


def settle(
  jobs: Sequence[Job], workdir: pathlib.Path, of_models: Collection[str], choice: str
) -> None:
  """Sees to it that the results in a workdir are of the present code, as a choice says.

  Args:
    jobs: the jobs of the study.
    workdir: its folder.
    of_models: metrics that do not depend on sampler options.
    choice: one of CHOICES.

  Raises:
    ConfigError: there are results of other code, and the choice is to refuse them.
  """
  stores = [CellStore(workdir / 'cells', job.keys, of_models) for job in jobs]
  others = [_others(job, store) for job, store in zip(jobs, stores, strict=True)]
  found = [code for codes in others for code in codes]
  if not found or choice == KEEP:
    return
  if choice == REFUSE:
    raise ConfigError(
      f'{workdir} holds results of {"; ".join(dict.fromkeys(found))}, and this is '
      f'{provenance.code()}: add --other_code=again to train and measure once more (old results '
      f'go to {workdir / BEFORE}), --other_code=keep to take them as they are, or choose another '
      '--workdir'
    )
  aside = _new_folder(workdir / BEFORE)
  # First what is of other code, then the moves: models are shared, and with a first stage goes what
  # was trained on its latents.
  stale = [store for store, codes in zip(stores, others, strict=True) if codes]
  folders = dict.fromkeys(folder for job in jobs for folder in _models_to_move(job))
  for path in dict.fromkeys(path for store in stale for path in store.files):
    _move(path, aside / 'cells')
  for folder in folders:
    with workdirs.locked(folder):
      _move(folder, aside / 'models')
  logging.info('moved results of other code to %s', aside)


def of_a_dry_run(choice: str) -> str:
  """The choice of a dry run, which moves nothing."""
  if choice == AGAIN:
    raise ConfigError('--dry_run with --other_code=again: give a new --workdir instead')
  return choice


def _others(job: Job, store: CellStore) -> list[str]:
  """The other versions of the code that made a part of a job's cells or of its models."""
  made = [one['code'] for one in store.conditions() if 'code' in one]
  for part in studies.models(job):
    made += _made_by_others(part.folder)
  return [code for code in dict.fromkeys(made) if _is_other(code)]


def _models_to_move(job: Job) -> list[pathlib.Path]:
  """The folders of a job's models that other code trained, or that rest on such a first stage."""
  found = []
  for part in studies.models(job):
    rests_on_one = part.stage is not None and part.stage.folder in found
    if (rests_on_one and part.folder.exists()) or _made_by_others(part.folder):
      found.append(part.folder)
  return found


def _made_by_others(folder: pathlib.Path) -> list[str]:
  """The other versions of the code that trained the run in a folder."""
  if not (folder / 'config.json').exists():
    return []
  made = [one.get('code', UNKNOWN) for one in provenance.remembered(folder)] or [UNKNOWN]
  return [code for code in made if _is_other(code)]


def _is_other(code: str) -> bool:
  return provenance.digest_of(code) != provenance.code_digest()


def _new_folder(parent: pathlib.Path) -> pathlib.Path:
  """PARENT/1, or the next number that is free."""
  return next(p for p in (parent / str(n) for n in itertools.count(1)) if not p.exists())


def _move(path: pathlib.Path, folder: pathlib.Path) -> None:
  folder.mkdir(parents=True, exist_ok=True)
  rename_folder(path, folder / path.name)
