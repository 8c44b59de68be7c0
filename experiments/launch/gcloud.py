"""Queued resources of Cloud TPU by `gcloud` alone, for those who have no launcher.

The script is queued_resources.sh next to this file, with the settings of the job in front. It can
be kept, read and started by hand, and started again at any time.
"""

import dataclasses
import pathlib
import shlex

from experiments.launch import job
from experiments.startup.signals import STOPPED

NEEDS = ('gcloud', 'bash', 'git', 'tar')
SCRIPT = pathlib.Path(__file__).with_name('queued_resources.sh')
# https://docs.cloud.google.com/tpu/docs/runtimes: the software of each kind of TPU.
RUNTIMES = {
  'v6e': 'v2-alpha-tpuv6e',
  'v5p': 'v2-alpha-tpuv5',
  'v5litepod': 'v2-alpha-tpuv5-lite',
  'v4': 'tpu-ubuntu2204-base',
  'v3': 'tpu-ubuntu2204-base',
  'v2': 'tpu-ubuntu2204-base',
}


@dataclasses.dataclass(frozen=True)
class Settings:
  """The queued resource.

  Attributes:
    accelerator: Google Cloud's name of a slice: v6e-256, v5litepod-16.
    zone: where to ask for it.
    slices: number of slices.
    runtime_version: the software of the TPU's machines; '': what Google recommends for the kind.
    project: '': that of gcloud's configuration.
    spot: whether it may be preempted.
    setup: a line of shell that each worker runs before each start, such as one that mounts a
      folder unless it is mounted.
  """

  accelerator: str
  zone: str
  slices: int = 1
  runtime_version: str = ''
  project: str = ''
  spot: bool = False
  setup: str = ''

  def __post_init__(self):
    if not (self.runtime_version or self.kind in RUNTIMES):
      raise ValueError(
        f'--accelerator={self.accelerator}: no runtime is known for it; give --runtime_version, or '
        f'a slice of {", ".join(RUNTIMES)}, such as v6e-16'
      )

  @property
  def kind(self) -> str:
    return self.accelerator.partition('-')[0]


def plan(start: job.Job, settings: Settings) -> job.Plan:
  """The script, and `bash`."""
  return job.Plan(_header(start, settings) + SCRIPT.read_text('utf-8'), '.sh', ('bash',))


def _header(start: job.Job, settings: Settings) -> str:
  """The settings of the script, as assignments."""
  where = [f'--zone={settings.zone}']
  if settings.project:
    where.append(f'--project={settings.project}')
  create = [
    f'--accelerator-type={settings.accelerator}',
    f'--runtime-version={settings.runtime_version or RUNTIMES[settings.kind]}',
  ]
  if settings.slices == 1:
    create.append(f'--node-id={start.name}')
  else:
    create += [f'--node-count={settings.slices}', f'--node-prefix={start.name}']
  if settings.spot:
    create.append('--spot')
  env = ['env', *(f'{name}={value}' for name, value in start.env)] if start.env else []
  install = ''.join(
    f'  {line}\n' for line in job.INSTALL.format(extra=start.extras('tpu')).splitlines()
  )
  return (
    '#!/usr/bin/env bash\n'
    f'NAME={start.name}\n'
    f'WHERE=({shlex.join(where)})\n'
    f'CREATE=({shlex.join(create)})\n'
    f'COMMAND=({shlex.join([*env, *start.command()])})\n'
    f'RESTARTS={start.restarts}\n'
    f'STOPPED={STOPPED}\n'
    f'install() {{\n{install}}}\n'
    f'prepare() {{\n  {settings.setup or "true"}\n}}\n'
  )
