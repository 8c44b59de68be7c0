"""A run is a folder: its config, checkpoints, metrics, samples and evaluations."""

import json
import pathlib
import shutil
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
from absl import logging

from common.checkpoints.checkpoints import Checkpoints, Restored
from common.config import Config, ConfigError, differences, flatten, freeze, pick, to_json
from common.data import pipeline, tokenizers
from common.evaluation.evaluate import Evaluation, evaluate
from common.files import atomic_write
from common.method import Method, PyTree
from common.reporting import writers
from common.training import loop
from common.training.parallel import make_mesh
from common.training.snapshots import Snapshots
from common.training.state import TrainState
from experiments import families

# What may differ when a run goes on: where and how fast it runs, not what it computes.
FREE = ('parallel.', 'data.dir', 'train.log_every', 'train.profile', 'train.keep', 'ema.keep')


class Run(NamedTuple):
  """A trained model, read back from its folder.

  Attributes:
    config: as it was trained.
    data: what it was trained on.
    method: its functions.
    params: the moving average of its parameters.
    step: of the checkpoint they come from.
  """

  config: dict[str, Any]
  data: pipeline.Data
  method: Method
  params: PyTree
  step: int


def train(
  config: Config,
  workdir: str | pathlib.Path,
  *,
  fresh: bool = False,
  stop: Callable[[], bool] = lambda: False,
) -> bool:
  """Trains a config in a folder, or goes on with what is there; returns whether it is finished.

  Raises:
    ConfigError: the config cannot be run, or the folder holds a run of another one.
  """
  workdir, config = pathlib.Path(workdir), freeze(config)
  data = pipeline.load(config['data'])
  method = families.build(config, data.spec)
  setup = loop.set_up(config, method, data.spec, make_mesh(config['parallel']))
  begun = None
  started = any((workdir / 'checkpoints').glob('[0-9]*'))
  if config.get('finetune', {}).get('source') and (fresh or not started):
    begun = _begun(config, data, setup)
  claim(workdir, config, data, fresh)  # last: nothing is left that it could be refused for
  if data.spec.tokenizer is not None:
    atomic_write(workdir / 'tokenizer.json', tokenizers.to_json(data.spec.tokenizer))
  if begun is not None:
    _keep_beginning(config, method, data, begun, workdir)
  return loop.train(config, method, data, setup, workdir, stop)


def _begun(config, data, setup) -> TrainState:
  """The state before the first step, with the weights of `finetune.source`."""
  state = jax.jit(setup.initial)()
  family = pick(families.FAMILIES, config['family'], 'family')
  params = family.begin(config, data.spec, state.params)
  averages = tuple(params for _ in state.averages)
  return state._replace(params=params, ema=params, averages=averages)


def _keep_beginning(config, method, data, state: TrainState, workdir: pathlib.Path) -> None:
  """Saves it as checkpoint 0, with its validation loss: what fine-tuning is held against."""
  settings = config['train']
  place = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
  size, seed = config['data']['batch_size'], config['seed']
  found = loop.validation_loss(method, state, data, size, place, seed)
  logging.info('before fine-tuning: validation loss %.4f', found['loss'])
  with writers.Writer(workdir, step=0) as writer:
    writer.scalars(0, found, 'validation')
  with Checkpoints(
    workdir / 'checkpoints',
    keep=settings['keep'],
    best_metric=settings['best_metric'],
    best_mode=settings['best_mode'],
  ) as checkpoints:
    position = {'step': 0, 'examples': 0}
    checkpoints.save(0, state, config=config, position=position, metrics=found)


def claim(workdir: pathlib.Path, config: Mapping, data: pipeline.Data, fresh: bool) -> None:
  """Writes config and fingerprint of the data, unless a run of another config or data is there.

  Args:
    workdir: the folder of the run.
    config: a whole config.
    data: what it is trained on.
    fresh: whether to move a run that is there aside.

  Raises:
    ConfigError: a run of another config or on other data is there, or it cannot be read.
  """
  path, data_path = workdir / 'config.json', workdir / 'data.json'
  seen = {'fingerprint': pipeline.fingerprint(data), 'train': data.spec.num_train}
  if fresh and workdir.exists():
    number = next(n for n in range(1, 10**6) if not _numbered(workdir, n).exists())
    shutil.move(workdir, _numbered(workdir, number))
    logging.info('moved the run that was there to %s', _numbered(workdir, number))
  if path.exists():
    changed = differences(_completed(config)[0], _read_config(path))
    changed = {k: v for k, v in changed.items() if not k.startswith(FREE)}
    if changed:
      shown = '; '.join(f'{k}: there {old!r}, now {new!r}' for k, (old, new) in changed.items())
      raise ConfigError(
        f'{workdir} holds a run of another config ({shown}); '
        'choose another --workdir, or --fresh to move that run aside and begin anew'
      )
    before = _read_json(data_path) if data_path.exists() else seen
    if before != seen:
      raise ConfigError(
        f'the data of the run in {workdir} has changed since it began ({before.get("train")} '
        f'training examples then, {seen["train"]} now): bring it back, choose another --workdir, '
        'or --fresh to move that run aside and begin anew'
      )
  atomic_write(path, to_json(config))
  atomic_write(data_path, json.dumps(seen))


def _numbered(workdir: pathlib.Path, number: int) -> pathlib.Path:
  return workdir.with_name(f'{workdir.name}.{number}')


def _read_json(path: pathlib.Path) -> dict[str, Any]:
  try:
    found = json.loads(path.read_text())
  except (OSError, ValueError) as error:
    raise ConfigError(f'{path} cannot be read: {error}') from error
  if not isinstance(found, dict):
    raise ConfigError(f'{path} holds no JSON object')
  return found


def _read_config(path: pathlib.Path) -> dict[str, Any]:
  """The config of a run; what was not yet a setting when it was written has its default.

  Raises:
    ConfigError: the file is no config.
  """
  config = _read_json(path)
  if 'family' not in config:
    raise ConfigError(f'{path} is not the config of a run: it names no family')
  config, added = _completed(config)
  if added:
    logging.info(
      '%s is older than these settings, which have their defaults: %s', path, ', '.join(added)
    )
  return config


def _completed(config: Mapping) -> tuple[dict[str, Any], list[str]]:
  """A config with a value for every setting, and the names of those that it lacked."""
  whole = families.complete(config)
  return whole, sorted(flatten(whole).keys() - flatten(config).keys())


def load(
  workdir: str | pathlib.Path,
  step: str | int = 'last',
  likelihood: Mapping[str, Any] | None = None,
) -> Run:
  """Reads a trained model back.

  Args:
    workdir: the folder of the run.
    step: 'last', 'best' or a number.
    likelihood: a component that replaces the `likelihood` section of its config.

  Raises:
    ConfigError: there is no run, or its family has no choice of likelihoods.
    CheckpointError: there is no such checkpoint, or it is damaged.
  """
  workdir = pathlib.Path(workdir)
  config = config_of(workdir)
  if likelihood is not None:
    if 'likelihood' not in config:
      raise ConfigError(f'--likelihood: that of the {config["family"]} family is exact, no choice')
    config['likelihood'] = dict(likelihood)
  data = pipeline.load(config['data'])
  method = families.build(config, data.spec)
  restored = _restore(workdir, config, _abstract(method, data), step)
  return Run(config, data, method, restored.state['ema'], restored.step)


def config_of(workdir: pathlib.Path) -> dict[str, Any]:
  """The config of the run in a folder. Raises ConfigError where there is none."""
  if not (workdir / 'config.json').exists():
    raise ConfigError(f'{workdir} holds no run (no config.json); train one with experiments.train')
  return _read_config(workdir / 'config.json')


def _abstract(method: Method, data: pipeline.Data) -> PyTree:
  """Shapes and types of the parameters."""
  return jax.eval_shape(method.init, jax.random.key(0), data.spec.batch_struct(1))[0]


def _restore(workdir: pathlib.Path, config: Mapping, abstract: PyTree, step: str | int) -> Restored:
  with Checkpoints(
    workdir / 'checkpoints',
    best_metric=config['train']['best_metric'],
    best_mode=config['train']['best_mode'],
    read_only=True,
  ) as checkpoints:
    return checkpoints.restore({'ema': abstract}, step, partial=True)


def load_weak(run: Run, text: str) -> PyTree:
  """The parameters of a weaker version of a run's model, to guide it away from.

  Args:
    run: the model.
    text: 'WORKDIR' or 'WORKDIR@STEP': a run of the same network on the same data.

  Raises:
    ConfigError: there is no run.
    CheckpointError: there is no such checkpoint, or it is of another network.
  """
  folder, _, step = text.partition('@')
  workdir = pathlib.Path(folder)
  found = _restore(workdir, config_of(workdir), _abstract(run.method, run.data), _step(step))
  logging.info('guided by step %d of %s', found.step, workdir)
  return found.state['ema']


def _step(text: str) -> str | int:
  return int(text) if text.isdecimal() else text or 'last'


def with_average(run: Run, workdir: str | pathlib.Path, width: float) -> Run:
  """The run with the power-function average of this width in place of its moving average.

  Raises:
    ConfigError: for a width outside (0, 1/√12).
    CheckpointError: the run stored no averages.
  """
  with Snapshots(pathlib.Path(workdir), read_only=True) as snapshots:
    params = snapshots.reconstruct(
      _abstract(run.method, run.data), run.config['ema'].get('widths', ()), run.step, width
    )
  return run._replace(params=params)


def with_draft(run: Run, draft: Run) -> Run:
  """The run, sampled with the help of a smaller one that drafts.

  Raises:
    ConfigError: for a family without drafts, or two models that do not go together.
  """
  name, other = run.config['family'], draft.config['family']
  family = families.FAMILIES[name]
  if family.draft is None or other != name:
    able = ', '.join(name for name, family in families.FAMILIES.items() if family.draft)
    raise ConfigError(
      f'a {other} model cannot draft for one of the family {name}; both must be of one of: {able}'
    )
  small = family.draft(draft.config, draft.data.spec, draft.params)
  return run._replace(method=family.build(run.config, run.data.spec, draft=small))


def on(run: Run, name: str) -> Run:
  """The run with another dataset, read with the same settings.

  Raises:
    ConfigError: for a dataset whose examples are of another kind.
  """
  data = pipeline.load(run.config['data'] | {'name': name, 'source': ''})
  meaning = lambda spec: (spec.tokenizer, spec.pitches, spec.palette)
  kind = lambda spec: (spec.domain, spec.shape, spec.levels, spec.num_classes, *meaning(spec))
  if kind(data.spec) != kind(run.data.spec):
    raise ConfigError(
      f'{name} is of another kind than {run.data.spec.name}: {data.spec.domain} '
      f'{data.spec.shape} of {data.spec.levels} values, or another vocabulary or palette'
    )
  return run._replace(data=data)


def evaluate_run(
  run: Run, metrics: list[str] | None = None, options: Mapping | None = None
) -> Evaluation:
  """Measures a run; every random number hangs on the config's seed."""
  key = jax.random.fold_in(jax.random.key(run.config['seed']), 2**31 - 4)
  return evaluate(run.method, run.params, run.data, run.config['evaluation'], key, metrics, options)


def training_seconds(workdir: str | pathlib.Path) -> float:
  """Seconds that a run spent in training steps: no compilation, evaluation or sampling."""
  return sum(row.get('seconds', 0.0) for row in writers.read(workdir, 'train'))
