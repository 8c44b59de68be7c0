"""SkyPilot's managed jobs: slices of TPUs on Google Cloud, and GPUs of most clouds.

SkyPilot looks for a zone with room, copies the working tree, installs it, starts the command on
every host, and after a preemption does all of it again elsewhere.
https://docs.skypilot.co/en/latest/examples/managed-jobs.html
"""

import dataclasses
import shlex

from experiments.launch import documents, job
from experiments.startup.signals import STOPPED

NEEDS = ('sky',)
PORT = 8476  # of the coordinator, on the first machine
# What SkyPilot sets on each machine: https://docs.skypilot.co/en/latest/running-jobs/
PEERS = (
  f'--distributed="$(echo "$SKYPILOT_NODE_IPS" | head -n 1):{PORT},'
  '$SKYPILOT_NODE_RANK,$SKYPILOT_NUM_NODES"'
)


@dataclasses.dataclass(frozen=True)
class Settings:
  """Where SkyPilot runs the job.

  Attributes:
    accelerator: as `sky show-gpus` lists it: H100:8, tpu-v6e-256.
    nodes: number of machines; of slices, one.
    spot: whether to use machines that may be preempted.
    infra: CLOUD[/REGION[/ZONE]]; '': the cheapest that has room.
    setup: a line of shell that each new machine runs first, such as one that mounts a folder.
  """

  accelerator: str
  nodes: int = 1
  spot: bool = False
  infra: str = ''
  setup: str = ''

  def __post_init__(self):
    if self.is_tpu and self.nodes > 1:
      raise ValueError(
        f'--nodes={self.nodes}: SkyPilot runs one slice of TPUs per job; choose a larger '
        '--accelerator, or --backend=gke or gcloud with --slices'
      )

  @property
  def is_tpu(self) -> bool:
    return self.accelerator.startswith('tpu-')


def plan(start: job.Job, settings: Settings) -> job.Plan:
  """The task of SkyPilot, and `sky jobs launch`."""
  resources = {
    'accelerators': settings.accelerator,
    'use_spot': settings.spot,
    'job_recovery': {
      'max_restarts_on_errors': start.restarts,
      'recover_on_exit_codes': [STOPPED],  # these do not count
    },
  }
  if settings.infra:
    resources = {'infra': settings.infra} | resources
  task = {'name': start.name, 'workdir': '.', 'num_nodes': settings.nodes, 'resources': resources}
  if start.env:
    task['envs'] = dict(start.env)
  install = job.INSTALL.format(extra=start.extras('tpu' if settings.is_tpu else 'cuda'))
  task['setup'] = '\n'.join([*filter(None, ['set -e', settings.setup]), install, ''])
  task['run'] = _run(start, settings) + '\n'
  return job.Plan(
    documents.to_yaml(task),
    '.yaml',
    ('sky', 'jobs', 'launch', '--yes', '--detach-run'),
    (f'sky jobs logs --name {start.name}', f'sky jobs cancel --name {start.name}'),
  )


def _run(start: job.Job, settings: Settings) -> str:
  """The line of shell that each machine runs."""
  program = '.venv/bin/twofold'
  if settings.is_tpu:
    return shlex.join(start.command(program))
  return f'{shlex.join((program, *start.arguments))} {PEERS}'
