"""Slurm: a batch script that puts itself back into the queue.

JAX finds the other processes by Slurm's variables, and then gives each process one GPU, so there is
a task for each GPU.

Before a preemption and before the time limit Slurm sends SIGTERM to the tasks. They save, exit with
75, and the script asks for the job to be queued again. https://slurm.schedmd.com/sbatch.html
"""

import dataclasses
import re
import shlex

from experiments.launch import job
from experiments.startup.signals import STOPPED

NEEDS = ('sbatch',)
GRACE = 120  # seconds between SIGTERM and the time limit
DURATION = re.compile(r'(\d+-)?\d+(:\d\d){0,2}')
# Each task must end by itself: srun's own SIGTERM would be the second one, and end a task that is
# still saving. A task that is left behind is ended after 5 minutes.
SRUN = ('srun', '--kill-on-bad-exit=0', '--wait=300')
REQUEUE = """\
code=$?
if [ "$code" -eq {stopped} ]; then
  scontrol requeue "$SLURM_JOB_ID"  # stopped after saving
elif [ "$code" -ne 0 ] && [ "${{SLURM_RESTART_COUNT:-0}}" -lt {restarts} ]; then
  scontrol requeue "$SLURM_JOB_ID"  # crashed
fi
exit "$code"
"""


@dataclasses.dataclass(frozen=True)
class Settings:
  """What the job asks Slurm for.

  Attributes:
    nodes: number of machines.
    gpus: number of GPUs, and of processes, per machine; 0: one process on the CPU.
    time: the time limit, as Slurm writes it: 12:00:00, 1-00:00:00.
    partition: '': the cluster's default.
    sbatch: other options of sbatch, such as --account=x.
    setup: a line of shell that the script runs first, such as `module load cuda`.
  """

  nodes: int = 1
  gpus: int = 0
  time: str = '24:00:00'
  partition: str = ''
  sbatch: tuple[str, ...] = ()
  setup: str = ''

  def __post_init__(self):
    if not DURATION.fullmatch(self.time):
      raise ValueError(f'--time={self.time}: write hours, minutes and seconds, such as 12:00:00')
    for option in self.sbatch:
      if not option.startswith('-') or '\n' in option:
        raise ValueError(f'--sbatch={option}: write an option of sbatch, such as --account=x')


def plan(start: job.Job, settings: Settings) -> job.Plan:
  """The batch script, and `sbatch`."""
  options = [
    f'--job-name={start.name}',
    f'--nodes={settings.nodes}',
    f'--ntasks-per-node={max(settings.gpus, 1)}',
    f'--time={settings.time}',
    f'--signal=TERM@{GRACE}',
    '--requeue',
    '--open-mode=append',
    f'--output={start.name}-%j.log',
  ]
  if settings.gpus:
    options.append(f'--gpus-per-node={settings.gpus}')
  if settings.partition:
    options.append(f'--partition={settings.partition}')
  lines = ['#!/bin/bash', *(f'#SBATCH {option}' for option in (*options, *settings.sbatch))]
  again = REQUEUE.format(stopped=STOPPED, restarts=start.restarts)
  lines += filter(None, [settings.setup])
  text = '\n'.join(lines) + '\n' + start.exports() + shlex.join((*SRUN, *start.command()))
  return job.Plan(
    f'{text}\n{again}',
    '.sh',
    ('sbatch',),
    (f'tail -F {start.name}-*.log', f'scancel --name={start.name}'),
  )
