"""How long a large model takes on this machine, from its operations: nothing of it is trained.

A step of a paper's model can take a processor minutes, and its samples days. So only the gradient
of the loss of a few examples and a few samples in two steps are timed. They give the speed of the
machine with this network, in operations per second (common/flops.py), at which the whole training
and all samples are computed. Reading data, saving, decoding latents, and the features of samples
are left out.
"""

import functools
import json
import statistics
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from common import flops
from common.config import ConfigError, to_json
from common.data.spec import DataSpec
from common.domains import domain_of
from common.evaluation.metrics import METRICS, SAMPLES
from common.method import Batch, Context, Method, PyTree, Request
from common.studies.plans import Job
from experiments import families
from experiments.study import costs

# The operations of a step up to which it is run as it is, by kind of device: seconds on each.
MOST = {'cpu': 2e11}
MOST_ELSEWHERE = 2e14
# Numbers of steps in which samplers are traced: their loops are padded to powers of two.
TRACED_STEPS = (16, 32)
TIMED_STEPS = 2  # of a sampler
TIMED_CALLS = 3
LONGEST = 20.0  # seconds after which no further call is timed
OF_LIKELIHOOD = (
  *('bits_per_dim', 'nats_per_position', 'perplexity'),
  *('bits_per_byte', 'bits_per_character', 'accuracy'),
)
# The settings of a network, which decide its speed, whatever its loss and its sampler.
OF_A_NETWORK = ('family', 'precision', 'data', 'network', 'head', 'generator', 'discriminator')


class Model(NamedTuple):
  """A model of a job, with nothing computed.

  Attributes:
    method: the model.
    spec: its data.
    params: shapes and types of its parameters.
  """

  method: Method
  spec: DataSpec
  params: PyTree

  @property
  def least(self) -> int:
    """The examples that its initial parameters depend on, and at least one."""
    return max(self.method.init_examples, 1)


def is_large(job: Job) -> bool:
  """Whether a step of a job's training takes too long to be run as it is on this machine.

  Forecasts, which need the windows of their data, are never counted.
  """
  if costs.spec_of(job, described=True).series is not None:
    return False
  return costs.cost_of(job).flops_per_step > most()


def most() -> float:
  """The operations of a step up to which it is run as it is."""
  return MOST.get(jax.default_backend(), MOST_ELSEWHERE)


def training_seconds(job: Job, speed: float) -> float:
  """The seconds of the training of a job's model, its first stage left out.

  Args:
    job: the job.
    speed: operations per second.
  """
  cost = costs.cost_of(job)
  return cost.steps * cost.flops_per_step / speed


def sampling_seconds(job: Job, metrics: Iterable[str], steps: int, speed: float) -> float:
  """The seconds of drawing the samples of the metrics of a job.

  Args:
    job: the job.
    metrics: names of METRICS.
    steps: those of its sampler, or 0.
    speed: operations per second.
  """
  if not draws(metrics):
    return 0.0
  settings = job.config['evaluation']
  number = settings['num_samples'] * settings['sample_sets']
  return number * sampling_flops(model_of(job), options_of(job), steps) / speed


def likelihood_seconds(job: Job, metrics: Iterable[str], speed: float) -> float:
  """The seconds of the likelihood of a job's examples; the speed is that of sampling.

  Raises:
    ConfigError: its data are not here, and so their number is not known; or a solver chooses its
      own steps.
  """
  model = model_of(job)
  if set(metrics).isdisjoint(OF_LIKELIHOOD) or not model.method.has_likelihood:
    return 0.0
  first = job
  while first.stage is not None:  # there are as many latents as images
    first = first.stage
  data, split = costs.data_of(to_json(first.config['data'])), job.config['evaluation']['split']
  return len(data.splits[split]) * likelihood_flops(model) / speed


def draws(metrics: Iterable[str]) -> bool:
  """Whether any of the metrics needs samples."""
  return any(METRICS[name].draws == SAMPLES for name in metrics)


def model_of(job: Job) -> Model:
  """The model of a job, whose data need not be here."""
  spec = costs.spec_of(job, described=True)
  method = families.build(job.config, spec)
  batch = spec.batch_struct(max(method.init_examples, 1))
  params, _ = jax.eval_shape(method.init, jax.random.key(0), batch)
  return Model(method, spec, params)


def options_of(job: Job) -> dict[str, Any]:
  """The sampler settings of a job's row, with a grid that takes any number of steps."""
  options = dict(job.row.sampling)
  grid = ({**job.config.get('sampling', {}), **options}).get('grid')
  if isinstance(grid, Mapping) and grid.get('name') == 'given':
    options['grid'] = {'name': 'uniform'}  # its times cost as much as any others
  return options


def sampling_flops(model: Model, options: Mapping[str, Any], steps: int) -> float:
  """The operations of one sample.

  Args:
    model: the model.
    options: sampler settings that replace those of the config; see `options_of`.
    steps: see `sampling_seconds`.
  """
  if steps:
    few, many = (_sampler_flops(model, {**options, 'steps': number}) for number in TRACED_STEPS)
    per_step = (many - few) / (TRACED_STEPS[1] - TRACED_STEPS[0])
    return few + per_step * (steps - TRACED_STEPS[0])
  # Parts are drawn in a `while`, of which a trace counts one pass.
  parts = model.method.parts
  if parts > 1:
    parts = options.get('length') or parts
  return parts * _sampler_flops(model, options)


def likelihood_flops(model: Model) -> int:
  """The operations of the likelihood of one example.

  Raises:
    ConfigError: a solver chooses its own steps, so that a trace cannot know their number.
  """
  batch = model.spec.batch_struct(1)
  traced = flops.trace(model.method.nll, model.params, batch, jax.random.key(0))
  if flops.has(traced, 'while'):
    raise ConfigError('its solver chooses its own steps')
  return flops.count(traced)


def training_speed(job: Job) -> float:
  """Operations per second of the loss of a job's model and its gradient, on this machine."""
  cost, model = costs.cost_of(job), model_of(job)
  size = job.config['data']['batch_size']
  batch = _batch(model.spec, min(max(_number(cost.flops_per_step / size), model.least), size))
  params, memory = jax.jit(model.method.init)(jax.random.key(0), batch)
  gradient = jax.jit(functools.partial(_gradient, model.method))
  seconds = _seconds(functools.partial(gradient, params, memory, batch))
  return len(batch['x']) / size * cost.flops_per_step / seconds


def sampling_speed(job: Job, steps: int) -> float:
  """Operations per second of sampling from a job's model; its `steps` as of `sampling_seconds`."""
  model, options = model_of(job), options_of(job)
  few = min(steps, TIMED_STEPS)
  each = sampling_flops(model, options, few)
  number = min(_number(each), job.config['evaluation']['batch_size'])
  params, _ = jax.jit(model.method.init)(jax.random.key(0), _batch(model.spec, model.least))
  request = _request(model, number, {**options, 'steps': few} if few else options)
  draw = functools.partial(model.method.sample, params, jax.random.key(0), request)
  return number * each / _seconds(draw)


def _number(each: float) -> int:
  """The number of examples or samples to time, each of so many operations."""
  return max(int(most() / each), 1)


def _seconds(call: Callable[[], Any]) -> float:
  """The median of a few calls, after one that compiles; of long ones, fewer."""
  jax.block_until_ready(call())
  seconds = []
  while len(seconds) < TIMED_CALLS and sum(seconds) < LONGEST:
    start = time.monotonic()
    jax.block_until_ready(call())
    seconds.append(time.monotonic() - start)
  return statistics.median(seconds)


def key_of(job: Job) -> str:
  """The settings on which the speed of a job's model depends."""
  config = json.loads(costs.settings_of(job))
  return to_json({name: config[name] for name in OF_A_NETWORK if name in config})


def _batch(spec: DataSpec, number: int) -> Batch:
  """A batch of noise, in the shapes and types of the data."""
  batch = {k: jnp.zeros(v.shape, v.dtype) for k, v in spec.batch_struct(number).items()}
  noise = jax.random.uniform(jax.random.key(1), batch['x'].shape)
  return batch | {'x': (noise * (spec.levels or 1)).astype(batch['x'].dtype)}


def _gradient(method: Method, params: PyTree, memory: PyTree, batch: Batch) -> PyTree:
  """The gradient of the loss of a batch, with the parameters as their own average."""
  index = jnp.arange(len(batch['x']))
  context = Context(jnp.zeros((), jnp.int32), params, True, index, len(index))
  loss = functools.partial(_loss, method, memory, batch, context)
  return jax.grad(loss)(params)


def _loss(
  method: Method, memory: PyTree, batch: Batch, context: Context, params: PyTree
) -> Float[Array, '']:
  return method.loss(params, memory, batch, jax.random.key(2), context)[0]


def _sampler_flops(model: Model, options: Mapping[str, Any]) -> int:
  """The operations of one sample, as its program is traced."""
  program = model.method.sampling_program(model.params, _request(model, 1, options))
  with flops.counting(True):
    return flops.count(program.function.trace(*program.arguments).jaxpr.jaxpr)


def _request(model: Model, number: int, options: Mapping[str, Any]) -> Request:
  """A request for a number of samples, of the first class if there are classes."""
  labelled = model.spec.num_classes and model.method.labelled
  label = jnp.zeros(number, jnp.int32) if labelled else None
  return domain_of(model.spec).request(model.spec, number, label, options)
