"""Starts the same command on every worker of a slice or cluster, with the launcher that is there.

  twofold launch --backend=local --processes=2 -- \\
    train --config=diffusion/images:digits --workdir=runs/digits
  twofold launch --backend=slurm --nodes=4 --gpus=8 --time=24:00:00 -- \\
    train --config=papers/dit:XL2 --workdir=/shared/runs/dit
  twofold launch --backend=sky --accelerator=tpu-v6e-256 --spot --setup=MOUNT -- \\
    train --config=papers/dit:XL2 --workdir=/mnt/runs/dit
  twofold launch --backend=gke --accelerator=tpu-v6e-slice --topology=16x16 --image=IMAGE \\
    -- train --config=papers/dit:XL2 --workdir=gs://BUCKET/runs/dit
  twofold launch --backend=gcloud --accelerator=v6e-256 --zone=us-east5-b --spot \\
    --setup=MOUNT -- train --config=papers/dit:XL2 --workdir=/mnt/runs/dit

What follows `--` is a command of twofold. --dry_run prints the task, manifest or script that would
be used, and how: write it to a file to keep or change it. A run that is stopped after saving (exit
code 75) or whose machines are preempted goes on where it stopped; one that crashes is restarted at
most --restarts times. docs/clusters.md says what each backend needs.
"""

import dataclasses
import os
import shlex
import sys
from collections.abc import Callable

from absl import flags

from experiments import cli
from experiments.launch import gcloud, gke, job, sky, slurm


@dataclasses.dataclass(frozen=True)
class Backend:
  """A way to reach several workers.

  Attributes:
    settings: a dataclass whose fields are the backend's flags.
    plan: (job, settings) to the file and the command.
    needs: the programs that it calls.
    ships: whether it installs the current folder on the workers.
    shares: whether the workers have the folders of this machine.
  """

  settings: type
  plan: Callable[..., job.Plan]
  needs: tuple[str, ...]
  ships: bool = False
  shares: bool = False


@dataclasses.dataclass(frozen=True)
class Local:
  """Processes on this machine."""

  processes: int = 2


BACKENDS = {
  'sky': Backend(sky.Settings, sky.plan, sky.NEEDS, ships=True),
  'slurm': Backend(slurm.Settings, slurm.plan, slurm.NEEDS, shares=True),
  'gke': Backend(gke.Settings, gke.plan, gke.NEEDS),
  'gcloud': Backend(gcloud.Settings, gcloud.plan, gcloud.NEEDS, ships=True),
}
LOCAL = 'local'
SETTINGS = {LOCAL: Local} | {name: backend.settings for name, backend in BACKENDS.items()}

BACKEND = flags.DEFINE_enum('backend', None, list(SETTINGS), 'What reaches the workers.')
DRY_RUN = flags.DEFINE_bool('dry_run', False, 'Print what would be done, and do nothing.')
NAME = cli.define('name', 'Name of the job; default: from the last part of --workdir.')
ENV = flags.DEFINE_multi_string('env', [], 'NAME=VALUE, set for the command on every worker.')
RESTARTS = flags.DEFINE_integer(
  'restarts', 3, 'How often a run that crashed is restarted.', lower_bound=0
)
# Flags of backends: their defaults are those of the dataclasses.
flags.DEFINE_integer('processes', None, 'local: number of processes (2).', lower_bound=1)
cli.define('accelerator', 'sky: H100:8 or tpu-v6e-256; gke: tpu-v6e-slice; gcloud: v6e-256.')
flags.DEFINE_integer('nodes', None, 'sky, slurm: number of machines (1).', lower_bound=1)
flags.DEFINE_integer('gpus', None, 'slurm: GPUs (and processes) per machine (0).', lower_bound=0)
cli.define('time', 'slurm: time limit (24:00:00); the job is queued again when it is over.')
cli.define('partition', "slurm: partition; default: the cluster's.")
flags.DEFINE_multi_string('sbatch', None, 'slurm: another option of sbatch: --sbatch=--account=x.')
cli.define('infra', 'sky: CLOUD[/REGION[/ZONE]]; default: the cheapest with room.')
flags.DEFINE_integer('slices', None, 'gke, gcloud: number of slices (1).', lower_bound=1)
cli.define('topology', 'gke: the chips of a slice: 4x4, 4x4x4.')
flags.DEFINE_integer('chips', None, 'gke: chips of one host (4).', lower_bound=1)
cli.define('image', 'gke: container image that has twofold.')
cli.define('claim', 'gke: volume claim with the workdir, in the pods at /mnt/CLAIM; none: gs://.')
cli.define('queue', 'gke: local queue of Kueue; default: none.')
cli.define('zone', 'gcloud: zone of the slice.')
cli.define('project', "gcloud: project; default: that of gcloud's configuration.")
cli.define('runtime_version', 'gcloud: software of the machines; default: by the kind of TPU.')
cli.define('setup', 'sky, slurm, gcloud: a line of shell to run before the command.')
flags.DEFINE_bool('spot', None, 'sky, gke, gcloud: machines that may be preempted.')


def main(arguments: list[str]) -> int:
  name = BACKEND.value
  if name is None:
    raise ValueError(f'--backend is missing: give one of {", ".join(SETTINGS)}')
  settings = settings_of(name)
  workdir = job.check(arguments)
  title = NAME.value or job.name_of(workdir, arguments[0])
  if not job.NAME.fullmatch(title):
    raise ValueError(
      f'--name={title}: write a name of at most 40 small letters, digits and hyphens, which begins '
      'with a letter'
    )
  env = job.parse_env(ENV.value)
  start = job.Job(title, tuple(arguments), workdir, env, RESTARTS.value)
  if name == LOCAL:
    return run_here(start, settings)
  backend = BACKENDS[name]
  job.check_restarts(arguments, name)
  if not backend.shares:
    job.check_shared(workdir, name)
    job.check_out(arguments, name)
  if backend.ships:
    job.check_tree()
  plan = backend.plan(start, settings)
  if DRY_RUN.value:
    print(plan.shown(), end='')
    return 0
  return job.run(plan, name, backend.needs)


def settings_of(name: str) -> object:
  """The settings of a backend, from its flags.

  Raises:
    ValueError: a flag is missing, or belongs to other backends; a value is not valid.
  """
  fields = {field.name: field for field in dataclasses.fields(SETTINGS[name])}
  for other in SETTINGS.values():
    for field in dataclasses.fields(other):
      if flags.FLAGS[field.name].present and field.name not in fields:
        mine = ', '.join(f'--{flag}' for flag in fields)
        raise ValueError(f'--{field.name} is not a flag of --backend={name}, which takes {mine}')
  values = {flag: flags.FLAGS[flag].value for flag in fields}
  for flag, field in fields.items():
    if values[flag] is None and field.default is dataclasses.MISSING:
      raise ValueError(f'--backend={name} needs --{flag}. {flags.FLAGS[flag].help}')
  given = {flag: value for flag, value in values.items() if value is not None}
  given = {flag: tuple(v) if isinstance(v, list) else v for flag, v in given.items()}
  return SETTINGS[name](**given)


def run_here(start: job.Job, settings: Local) -> int:
  """Runs the command in several processes of this machine; returns their exit code."""
  from experiments.launch import local

  if DRY_RUN.value:
    print(f'{start.exports()}{shlex.join(("twofold", *start.arguments))}')
    print(f'# in {settings.processes} processes, each with its own --distributed=HOST:PORT,i,n')
    return 0
  os.environ.update(start.env)
  command = [sys.executable, '-m', 'twofold', *start.arguments]
  return local.run(command, settings.processes, start.restarts)


if __name__ == '__main__':
  cli.run(main, takes_arguments=True)
