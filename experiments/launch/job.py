"""What a launch starts: one command of `twofold`, the same on every worker."""

import dataclasses
import pathlib
import re
import shlex
import shutil
import subprocess
import tempfile
from collections.abc import Sequence

from absl import flags

from common import buckets
from common.ranges import did_you_mean
from experiments import cli, config_flag

DISTRIBUTED = ('train', 'evaluate', 'sample')  # the commands that take --distributed
NAME = re.compile(r'[a-z]([-a-z0-9]{0,38}[a-z0-9])?')  # what all clouds accept
VARIABLE = re.compile(r'[A-Za-z_]\w*')
# Installs the working tree into .venv, with the versions that the tests ran with. The images of
# clouds have an older Python, so uv brings one.
INSTALL = """\
export PATH="$HOME/.local/bin:$PATH"
command -v uv > /dev/null || curl -LsSf https://astral.sh/uv/install.sh | sh
uv venv --quiet --allow-existing --python 3.11 .venv &&
  uv pip install --quiet --python .venv/bin/python -c constraints.txt '.[{extra}]'"""


@dataclasses.dataclass(frozen=True)
class Job:
  """A command that every worker runs.

  Attributes:
    name: of the job, and of what is created for it.
    arguments: those of `twofold`: ('train', '--config=...', '--workdir=...').
    workdir: the folder of the run, for all workers.
    env: ((name, value), ...), environment variables of the command.
    restarts: how often it is restarted after a crash. After a preemption (exit code 75, or a
      machine that is gone) it always is.
  """

  name: str
  arguments: tuple[str, ...]
  workdir: str
  env: tuple[tuple[str, str], ...] = ()
  restarts: int = 3

  def command(self, program: str = 'twofold') -> tuple[str, ...]:
    """The command of a worker that finds the others by itself (on TPUs, under Slurm)."""
    return (program, *self.arguments, '--distributed=auto')

  def extras(self, hardware: str) -> str:
    """The extras that workers install, such as 'tpu,gcs' if the command names a bucket."""
    words = (*self.arguments, *(value for _, value in self.env))
    return f'{hardware},gcs' if any(buckets.SCHEME in word for word in words) else hardware

  def exports(self) -> str:
    """Lines of shell that set the environment variables."""
    return ''.join(f'export {name}={shlex.quote(value)}\n' for name, value in self.env)


@dataclasses.dataclass(frozen=True)
class Plan:
  """A file, and the command that is given it.

  Attributes:
    text: the file: a script, a task or a manifest.
    suffix: of the file.
    command: the program and its arguments, to which the path of the file is added.
    follow: commands that show the run later, or end it.
  """

  text: str
  suffix: str
  command: tuple[str, ...]
  follow: tuple[str, ...] = ()

  def shown(self) -> str:
    """The file with the other commands as comments, which all these formats have."""
    others = (f'{shlex.join(self.command)} THIS_FILE', *self.follow)
    return self.text + ''.join(f'# {line}\n' for line in others)


def run(plan: Plan, backend: str, needs: Sequence[str]) -> int:
  """Carries out a plan; returns the exit code of its command.

  Args:
    plan: the plan.
    backend: its name, for messages.
    needs: the programs that must be there.

  Raises:
    ValueError: a program is missing.
  """
  for program in needs:
    if not shutil.which(program):
      raise ValueError(
        f'--backend={backend} needs the program {program!r}, which is not on the PATH: install it '
        '(docs/clusters.md), or add --dry_run to print what would be done'
      )
  with tempfile.TemporaryDirectory() as folder:
    path = pathlib.Path(folder, f'launch{plan.suffix}')
    path.write_text(plan.text, encoding='utf-8')
    code = subprocess.run([*plan.command, str(path)], check=False).returncode
  if not code:
    for line in plan.follow:
      print(f'next: {line}')
  return code


def check(arguments: Sequence[str]) -> str:
  """Checks a command before anything is paid for; returns its workdir.

  Raises:
    ValueError: the command cannot run on several workers, sets --distributed itself, or has no
      workdir; its config or a setting of it is wrong.
  """
  known = ', '.join(DISTRIBUTED)
  if not arguments:
    raise ValueError(f'write the command after the flags: -- {known} --config=... --workdir=...')
  name, *rest = arguments
  if name not in DISTRIBUTED:
    hint = did_you_mean(name, DISTRIBUTED)
    raise ValueError(f'{name!r} does not run on several workers;{hint} commands that do: {known}')
  values = flags.FlagValues()
  config = config_flag.define('The config.', values, rest) if name == 'train' else None
  for flag in ('workdir', 'distributed', 'out'):
    flags.DEFINE_string(flag, None, '', flag_values=values)
  try:
    values([name, *rest], known_only=True)
  except flags.Error as error:
    raise ValueError(str(error).removeprefix('flag ')) from None
  if values['distributed'].value is not None:
    raise ValueError('--distributed: leave it out of the command; launch sets it on each worker')
  if config is not None:
    config.load()
  workdir = values['workdir'].value
  if not workdir:
    raise ValueError(f'{name} needs --workdir: give a folder that all workers share')
  try:
    cli.RunParser().parse(workdir)
  except ValueError as error:
    raise ValueError(f'--workdir={workdir}: {error}') from None
  return workdir


def check_restarts(arguments: Sequence[str], backend: str) -> None:
  """Raises ValueError for a command that would set its own run aside when it is started again."""
  if any(argument in ('--fresh', '-fresh', '--fresh=true') for argument in arguments):
    raise ValueError(
      f'--fresh: with --backend={backend} the command may start again, and would then rename its '
      'own run; choose another --workdir, or rename the old run yourself'
    )


def check_shared(workdir: str, backend: str) -> None:
  """Raises ValueError for a workdir of which each machine has its own: relative, or in `~`."""
  if not workdir.startswith(('/', buckets.SCHEME)):
    raise ValueError(
      f'--workdir={workdir}: with --backend={backend} each worker would write to a folder of its '
      'own; give the absolute path of a folder that all workers mount, such as /mnt/runs/digits, '
      'or gs://BUCKET/FOLDER'
    )


def check_out(arguments: Sequence[str], backend: str) -> None:
  """Raises ValueError for samples that would be written to a worker's own disk."""
  outs = [argument for argument in arguments if re.match(r'--?out=', argument)]
  if arguments[0] == 'sample' and not (outs and outs[-1].partition('=')[2].startswith('/')):
    raise ValueError(
      f'sample needs --out with --backend={backend}: the absolute path of a file in a folder that '
      'all workers mount, such as --out=/mnt/runs/samples.png'
    )


def check_tree() -> None:
  """Raises ValueError unless the current folder is a clone, which workers can install."""
  for name in ('setup.py', 'constraints.txt'):
    if not pathlib.Path(name).is_file():
      raise ValueError(
        f'the workers install the current folder, but it has no {name}: start launch in a clone of '
        'twofold'
      )


def name_of(workdir: str, command: str = 'train') -> str:
  """A name for a job, from the last part of its workdir: '/mnt/runs/My_run' gives 'my-run'.

  That of another command than `train` begins with the command: 'evaluate-my-run'.
  """
  last = workdir.rstrip('/').rpartition('/')[2].lower()
  last = last if command == 'train' else f'{command}-{last}'
  name = re.sub(r'[^a-z0-9]+', '-', last).strip('-')
  return (name if name[:1].isalpha() else f'run-{name}')[:40].strip('-')


def parse_env(items: Sequence[str]) -> tuple[tuple[str, str], ...]:
  """(('A', 'b=c'),) from ['A=b=c'].

  Raises:
    ValueError: an item is not NAME=VALUE.
  """
  pairs = [item.partition('=') for item in items]
  for item, (name, equals, _) in zip(items, pairs, strict=True):
    if not equals or not VARIABLE.fullmatch(name):
      raise ValueError(f'--env={item}: write NAME=VALUE, such as TFDS_DATA_DIR=/mnt/data')
  return tuple((name, value) for name, _, value in pairs)
