"""What a run says before its first step, and after its last one."""

from collections.abc import Iterator, Mapping

import jax

from common.config import differences
from common.data.spec import DataSpec
from common.files import Path
from common.finetuning import open_checkpoints
from common.reporting.rates import scaled
from common.training.program import TrainProgram
from experiments import families

NETWORKS = ('network', 'generator', 'discriminator')  # sections of configs


def opening(config: Mapping, spec: DataSpec, program: TrainProgram) -> Iterator[str]:
  """Lines on what is trained, where, on which data, and what differs from the defaults.

  Args:
    config: a complete config.
    spec: the data.
    program: the training program.
  """
  shapes, schedule, size = program.step.shapes, program.schedule, config['data']['batch_size']
  parameters = sum(leaf.size for leaf in jax.tree.leaves(shapes.params))
  work = program.work
  networks = ', '.join(f'{p} {config[p]["name"]!r}' for p in NETWORKS if p in config)
  yield (
    f'model: {config["family"]}, {networks}, {parameters:,} parameters, '
    f'{scaled(work.flops)}FLOP per step of {work.units:,} {work.unit} (products and convolutions, '
    'three times the forward pass)'
  )
  devices, types = program.step.mesh.devices, {str(x.dtype) for x in jax.tree.leaves(shapes.params)}
  axes = ' × '.join(f'{axis} {size}' for axis, size in program.step.mesh.shape.items())
  yield (
    f'devices: {devices.size} × {devices.flat[0].device_kind} ({axes}; '
    f'mode {config["parallel"]["mode"]}), parameters in {", ".join(sorted(types))}, products in '
    f'{config["precision"]}'
  )
  yield (
    f'data: {spec.name}, {spec.num_train:,} training examples, batches of {size:,}, '
    f'{_epochs(spec.num_train, size)}; steps in all: {schedule.total:,}'
  )
  # None: only the family's default component has the setting.
  changed = differences(config, families.defaults(config['family']))
  for key, (old, new) in changed.items():
    if new is not None:
      yield f'differs from the default: {key}={new!r}' + ('' if old is None else f' (not {old!r})')


def closing(config: Mapping, workdir: Path, finished: bool) -> Iterator[str]:
  """Lines on the checkpoints of a run, and the command to type next."""
  with open_checkpoints(config, workdir, read_only=True) as checkpoints:
    last, best = checkpoints.latest, checkpoints.best
  metric = config['train']['best_metric']
  shown = f', best: step {best} (by {metric} on the validation split)' if best else ''
  yield f'checkpoints in {workdir}: last: step {last}{shown}'
  if finished:
    family = config['family']
    guided = [name for name, entry in families.FAMILIES.items() if entry.guided_by == family]
    flags = f'MODEL --classifier_from={workdir} --options=classifier=1.0' if guided else workdir
    yield f'next: twofold sample --workdir={flags}'
    # The lowest loss of a game is not the best model.
    judged = metric != 'loss' or families.FAMILIES[family].loss_is_quality
    yield f'  or: twofold evaluate --workdir={workdir}{" --step=best" if judged else ""}'
  else:
    yield 'stopped: the same command continues the run'


def _epochs(examples: int, size: int) -> str:
  """'45 steps per epoch'; for batches that are larger than the data, '2.5 epochs per step'."""
  if size > examples:
    return f'{size / examples:.3g} epochs per step'
  steps = examples // size
  return f'{steps:,} step{"" if steps == 1 else "s"} per epoch'
