"""A classifier of noisy data as a method, trained apart. `build` makes it from a config."""

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Key

from common.config import ConfigError, component, pick
from common.data.spec import DataSpec, to_unit
from common.finetuning import Source
from common.method import (
  Aux,
  Batch,
  Context,
  Hits,
  Likelihood,
  Method,
  Program,
  PyTree,
  Request,
  Samples,
  example_keys,
  example_weights,
)
from diffusion import processes
from diffusion.classifier import Classifier
from diffusion.method import weighted_mean
from diffusion.model import NOISE_CONDITIONINGS, check_data
from diffusion.networks import CLASSIFIERS
from diffusion.objectives import TIME_DISTRIBUTIONS
from diffusion.objectives.times import TimeDistribution, uniforms
from diffusion.predictions import add_noise
from diffusion.processes import PROCESSES
from diffusion.processes.process import Process

NOISE_LEVELS = (0.1, 0.3, 1.0, 3.0, 10.0)  # σ/α at which accuracy is measured
NO_SAMPLES = (
  'a classifier draws no samples: it guides those of a diffusion model, with'
  ' --classifier_from=WORKDIR --options=classifier=1.0'
)


@dataclasses.dataclass(frozen=True, eq=False)
class NoisyClassifier(Method):
  """A classifier of noisy data, trained apart from the model that it guides.

  Dhariwal & Nichol 2021, section 4.

  Attributes:
    classifier: the network and what it is given.
    process: adds the noise, as in the model that is guided.
    times: the distribution of training times.
    levels: number of values of each dimension of the data.
    noise_levels: see `Method`.
  """

  classifier: Classifier
  process: Process
  times: TimeDistribution
  levels: int
  noise_levels: tuple[float, ...]

  labelled = False
  has_likelihood = False

  def init(self, key: Key[Array, ''], batch: Batch) -> tuple[PyTree, PyTree]:
    x = to_unit(batch['x'], self.levels)
    return {'network': self.classifier.init(key, x)}, self.times.init(self.process)

  def loss(
    self, params: PyTree, memory: PyTree, batch: Batch, key: Key[Array, ''], context: Context
  ) -> tuple[Float[Array, ''], Aux]:
    """The cross-entropy of the classes of noisy data, in nats."""
    # A key for each example's time and noise; one for dropout, which is drawn for a whole array.
    dropout_key, key = jax.random.split(key)
    time_keys, noise_keys = jax.vmap(jax.random.split, out_axes=1)(example_keys(key, context.index))
    u = uniforms(time_keys, key, context.index, context.batch_size, self.times.stratified)
    times = self.times.sample(self.process, u, memory)
    x, _ = add_noise(self.process, to_unit(batch['x'], self.levels), times.t, noise_keys)
    log_probs = self.classifier.log_probs(
      params['network'],
      self.process,
      x,
      times.t,
      train=context.training,
      key=jax.random.fold_in(dropout_key, context.index[0]),
    )
    entropy = -jnp.take_along_axis(log_probs, batch['label'][:, None], axis=1)[:, 0]
    weight = example_weights(batch)
    memory = self.times.update(memory, self.process, times, entropy, weight)
    right = _right(log_probs, batch['label'])
    metrics = {'accuracy': weighted_mean(right, weight)}
    value = weighted_mean(entropy * times.importance, weight)
    return value, Aux(metrics, memory, weight.sum())

  def hits(self, params: PyTree, batch: Batch) -> Hits:
    """At which of `noise_levels` each example's class is recognised, [batch, levels].

    The noise of an example depends on its place in the batch alone: it is the same at all levels,
    and for all models with the same `evaluation.batch_size`.
    """
    x0 = to_unit(batch['x'], self.levels)
    keys = example_keys(jax.random.key(0), jnp.arange(x0.shape[0]))
    at = functools.partial(self._right_at, params, x0, batch['label'], keys)
    right = jnp.stack([at(t) for t in map(self._time_of, self.noise_levels)], axis=1)
    return Hits(right, jnp.ones_like(right))

  def _time_of(self, noise_level: float) -> Float[Array, '']:
    """The time of a noise level σ/α; on a discrete process, the nearest of its steps."""
    t = self.process.time_of(-2 * jnp.log(jnp.asarray(noise_level)))
    return jnp.round(t * self.process.steps) / self.process.steps if self.process.steps else t

  def _right_at(
    self,
    params: PyTree,
    x0: Float[Array, 'batch *shape'],
    label: Int[Array, 'batch'],
    keys: Key[Array, 'batch'],
    time: Float[Array, ''],
  ) -> Float[Array, 'batch']:
    t = jnp.full(x0.shape[:1], time)
    x, _ = add_noise(self.process, x0, t, keys)
    return _right(self.classifier.log_probs(params['network'], self.process, x, t), label)

  def nll(self, params: PyTree, batch: Batch, key: Key[Array, '']) -> Likelihood:
    """There is none: raises ConfigError."""
    raise ConfigError('a classifier has no likelihood of data, only probabilities of classes')

  def sample(self, params: PyTree, key: Key[Array, ''], request: Request) -> Samples:
    """There are none: raises ConfigError."""
    raise ConfigError(NO_SAMPLES)

  def check_request(self, params: PyTree | None, request: Request) -> None:
    raise ConfigError(NO_SAMPLES)

  def sampling_program(self, params: PyTree, request: Request) -> Program:
    raise ConfigError(NO_SAMPLES)


def _right(log_probs: Float[Array, 'batch classes'], label: Int[Array, 'batch']) -> Array:
  """1 for each example whose class is the most probable one, otherwise 0."""
  return (jnp.argmax(log_probs, axis=1) == label).astype(jnp.float32)


# The constructors that a config can choose, by the path of its section.
COMPONENTS = {'process': PROCESSES, 'network': CLASSIFIERS, 'objective.times': TIME_DISTRIBUTIONS}
# Sections without a name: their settings are the arguments of one constructor.
SECTIONS = {'finetune': Source}
# The constructors' arguments that come from the data and are not settings.
GIVEN = {'network': ('out_channels', 'num_classes', 'dtype')}


def with_options(sampling: Mapping, options: Mapping[str, Any]) -> dict[str, Any]:
  """The empty section of a method without samples. Raises ConfigError for any option."""
  if options:
    raise ConfigError(f'option {min(options)}: {NO_SAMPLES}')
  return dict(sampling)


def build(config: Mapping, spec: DataSpec) -> NoisyClassifier:
  """A classifier, from a config like that of `configs/classifier/base.py`.

  Raises:
    ConfigError: for unknown names or settings, and data without classes or noise.
  """
  check_data(spec)
  if spec.num_classes < 2 or spec.series is not None:
    raise ConfigError(
      f'a classifier needs data with two classes or more, and no time series, got {spec.name}'
      f' with {spec.num_classes} classes'
    )
  process = processes.build(config['process'])
  if process.learned:
    raise ConfigError(
      f'process {process.name!r} is trained by the likelihood, which a classifier has not: choose'
      ' another process'
    )
  prediction = config['prediction']
  network = component(
    CLASSIFIERS,
    config['network'],
    'network',
    out_channels=spec.num_classes,
    num_classes=0,
    dtype=config['precision'],
  )
  conditioning = pick(NOISE_CONDITIONINGS, prediction['noise'], 'prediction.noise')
  scaled, sigma_data = prediction['scale_input'], prediction['sigma_data']
  with jax.ensure_compile_time_eval():
    ends = jnp.asarray([process.t_min, process.t_max])
    least, most = jnp.exp(-0.5 * process.log_snr(ends)).tolist()
  noise_levels = tuple(level for level in NOISE_LEVELS if least <= level <= most)
  if not noise_levels:
    raise ConfigError(
      f'the noise levels σ/α of process {process.name!r}, {least:.3g} to {most:.3g}, hold none of'
      f' {NOISE_LEVELS}, at which a classifier is measured: choose a process with one of them'
    )
  return NoisyClassifier(
    classifier=Classifier(network, conditioning, scaled, sigma_data),
    process=process,
    times=component(TIME_DISTRIBUTIONS, config['objective']['times'], 'objective.times'),
    levels=spec.levels,
    noise_levels=noise_levels,
  )
