"""A network as a denoiser: its inputs, and what its output means."""

import dataclasses
import functools
import math
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Key

from common.config import ConfigError, component, pick
from common.data.spec import DataSpec
from diffusion import augmentation, processes
from diffusion.classifier import Classifier
from diffusion.networks import CLASSIFIERS, NETWORKS
from diffusion.networks.base import DiffusionNetwork
from diffusion.networks.experts import Experts, interval_edges
from diffusion.objectives import TIME_DISTRIBUTIONS
from diffusion.predictions import Pair, check_target, expand, preconditioning, split, target_pair
from diffusion.processes.process import Process
from diffusion.sampling.solvers import VARIANCES

MAX_LOG_SNR = 20.0  # log-SNRs that a network is given stay within ±20


def time_conditioning(process: Process, t: Array) -> Array:
  """1000·t/t_max, as for flows (Esser et al. 2024); on a table, DDPM's timesteps from 0.

  Entry k of a table is the authors' timestep k − 1 (Ho et al. 2020), times 1000/T (Nichol &
  Dhariwal 2021, code). For continuous VP processes, Song et al. 2021 use 999·t.
  """
  start = process.t_min if process.steps else 0.0
  return 1000 * (t - start) / process.t_max


def log_snr_conditioning(process: Process, t: Array) -> Array:
  """Log-SNR, from 20 (given as 0) to −20 (given as 1000): the same for every process."""
  bounded = jnp.clip(process.log_snr(t), -MAX_LOG_SNR, MAX_LOG_SNR)
  return 1000 * (MAX_LOG_SNR - bounded) / (2 * MAX_LOG_SNR)


def edm_conditioning(process: Process, t: Array) -> Array:
  """1000·c_noise = 1000·log(σ/α)/4 = −125·λ (Karras et al. 2022, table 1, times 1000)."""
  return -125 * jnp.clip(process.log_snr(t), -MAX_LOG_SNR, MAX_LOG_SNR)


def c_noise_conditioning(process: Process, t: Array) -> Array:
  """c_noise = log(σ/α)/4 itself, which the authors of EDM give to sinusoids (their code)."""
  return edm_conditioning(process, t) / 1000


def unit_time_conditioning(process: Process, t: Array) -> Array:
  """t/t_max itself, from 0 to 1, which the authors of SiT give to sinusoids (their code)."""
  return time_conditioning(process, t) / 1000


def log_sigma_conditioning(process: Process, t: Array) -> Array:
  """1000·log σ of data in [0, 1] = 1000·log(σ/2α) (Song et al. 2021, NCSN++, times 1000)."""
  return 4 * edm_conditioning(process, t) - 1000 * math.log(2)


# How a network is told the noise level; all but `c_noise` and `unit_time` on the scale of DDPM's
# timesteps.
NOISE_CONDITIONINGS = {
  'time': time_conditioning,
  'log_snr': log_snr_conditioning,
  'edm': edm_conditioning,
  'c_noise': c_noise_conditioning,
  'unit_time': unit_time_conditioning,
  'log_sigma': log_sigma_conditioning,
}


@dataclasses.dataclass(frozen=True, eq=False)  # hashed by identity: a key of compiled programs
class Model:
  """A process, a network, and what the network predicts.

  Attributes:
    process: the diffusion process; a learned one is bound to `params['process']` when used.
    network: see `diffusion.networks`.
    target: a key of `predictions.TARGETS`.
    sigma_data: standard deviation of the data, for EDM's preconditioning.
    scale_input: whether the network sees c_in·x, of unit variance, instead of x.
    noise_conditioning: (process, t) -> the noise level that the network is given.
    variance: variance of the discrete reverse step; 'learned' doubles the output channels.
    num_classes: number of classes the network knows, or 0; also the index of the null class.
    classifier: classifies noisy data, trained with the model or apart; or None.
  """

  process: Process
  network: DiffusionNetwork
  target: str
  sigma_data: float
  scale_input: bool
  noise_conditioning: Callable[[Process, Array], Array]
  variance: str
  num_classes: int
  classifier: Classifier | None = None

  def process_at(self, params: Mapping[str, Any]) -> Process:
    """The process; if it is learned, with the parameters in `params`."""
    return self.process.at(params.get('process'))

  def predict(
    self,
    params: Mapping[str, Any],
    x: Float[Array, 'batch *shape'],
    t: Float[Array, 'batch'],
    label: Int[Array, 'batch'] | None,
    given: Float[Array, 'batch *more'] | None = None,
    **settings: Any,
  ) -> tuple[Float[Array, 'batch *shape'], Pair]:
    """The network's output, an estimate of its target, and the (x0, eps) that it implies.

    Args:
      params: parameters of the model.
      x: noisy data.
      t: their times.
      label: classes, or None.
      given: a condition that the network sees as further channels of its input, or None. If it has
        more rows than x, these come before x, whose first rows are then 0 (diffusion/windows.py).
      **settings: see `_output`.
    """
    process = self.process_at(params)
    alpha, sigma = process.alpha(t), process.sigma(t)
    # c_in of Karras et al. 2022, table 1: the network's input has unit variance at every time.
    inputs = x
    if self.scale_input:
      inputs = expand(preconditioning(alpha, sigma, self.sigma_data).c_in, x) * x
    y = self._output(params, _with_given(inputs, given), t, label, **settings)
    y = y[:, -x.shape[1] :]
    fraction = None
    if self.variance == 'learned':
      # The second half of the channels is v in [-1, 1] (Nichol & Dhariwal 2021, eq. 15), and
      # becomes a fraction in [0, 1], as in their code.
      y, raw = jnp.split(y, 2, axis=-1)
      fraction = 0.5 * (raw + 1)
    # The target's coefficients at t, then the 2×2 system solved for (x0, eps).
    pair = jax.tree.map(
      lambda c: expand(c, x), target_pair(self.target, process, t, self.sigma_data)
    )
    estimate = split(y, x, pair, expand(alpha, x), expand(sigma, x))
    return y, estimate._replace(variance_fraction=fraction)

  def _output(
    self,
    params: Mapping[str, Any],
    inputs: Float[Array, 'batch *space channels'],
    t: Float[Array, 'batch'],
    label: Int[Array, 'batch'] | None,
    train: bool = False,
    key: Key[Array, ''] | None = None,
    augment: Float[Array, 'batch numbers'] | None = None,
  ) -> Float[Array, 'batch *space out_channels']:
    """The output of the network; `key` is that of its dropout."""
    extra = {} if augment is None else {'augment': augment}
    return self.network.apply(
      {'params': params['network']},
      inputs,
      self.noise_conditioning(self.process_at(params), t),
      label,
      train=train,
      rngs={} if key is None else {'dropout': key},
      **extra,
    )

  def estimate(
    self,
    params: Mapping[str, Any],
    x: Float[Array, 'batch *shape'],
    t: Float[Array, 'batch'],
    label: Int[Array, 'batch'] | None,
    given: Float[Array, 'batch *more'] | None = None,
  ) -> Pair:
    """The (x0, eps) that the network's output implies, for sampling and likelihood."""
    return self.predict(params, x, t, label, given)[1]

  def denoiser(self, params: Mapping[str, Any]) -> Callable[..., Pair]:
    """`estimate` with these parameters: (x, t, label) -> Pair."""
    return functools.partial(self.estimate, params)

  def class_log_probs(
    self,
    params: Mapping[str, Any],
    x: Float[Array, 'batch *shape'],
    t: Float[Array, 'batch'],
    *,
    train: bool = False,
    key: Key[Array, ''] | None = None,
  ) -> Float[Array, 'batch classes']:
    """log p(class | x, t) by the classifier."""
    process = self.process_at(params)
    return self.classifier.log_probs(params['classifier'], process, x, t, train=train, key=key)

  def init(
    self,
    key: Key[Array, ''],
    x: Float[Array, 'batch *shape'],
    given: Float[Array, 'batch *more'] | None = None,
  ) -> dict[str, Any]:
    """Parameters of the network and, if the model has them, a learned process and a classifier."""
    # Always three keys: adding a classifier does not change the network's first weights.
    first, second, third = jax.random.split(key, 3)
    label = jnp.zeros(x.shape[0], jnp.int32) if self.num_classes else None
    noise = jnp.zeros(x.shape[0], jnp.float32)
    inputs = _with_given(x, given)
    params = {'network': self.network.init(first, inputs, noise, label)['params']}
    if learned := self.process.init(second):
      params['process'] = learned
    if self.classifier is not None:
      params['classifier'] = self.classifier.init(third, x)
    return params


def _with_given(
  x: Float[Array, 'batch *shape'], given: Float[Array, 'batch *more'] | None
) -> Float[Array, 'batch *all']:
  """The input of the network: x as the last rows, and the condition as further channels."""
  if given is None:
    return x
  before = given.shape[1] - x.shape[1]
  x = jnp.pad(x, [(0, 0), (before, 0)] + [(0, 0)] * (x.ndim - 2))
  return jnp.concatenate([x, given], -1)


def check_data(spec: DataSpec) -> None:
  """Raises ConfigError for data to which no noise can be added."""
  if spec.latents is not None and spec.indices:
    raise ConfigError(
      f'diffusion adds noise to numbers, but the latents of {spec.latents.first_stage.name} are '
      "codes, which have no order: use a first stage with latent.name='gaussian', or family "
      "'autoregressive'"
    )
  if spec.palette is not None:
    raise ConfigError(
      'diffusion adds noise to pixel values, but with'
      f' data.palette={len(spec.palette.colours)} pixels are indices, which have no order: set'
      " data.palette=0, or use family 'autoregressive'"
    )


def build_model(config: Mapping, spec: DataSpec) -> Model:
  """The model of a config (see `configs/diffusion/base.py`).

  Raises:
    ConfigError: for unknown names or settings, and parts that do not go together.
  """
  check_data(spec)
  prediction = config['prediction']
  process = processes.build(config['process'])
  variance = prediction['variance']
  if variance not in VARIANCES:
    raise ConfigError(f'unknown prediction.variance {variance!r}; known: {", ".join(VARIANCES)}')
  if variance == 'learned' and not process.steps:
    raise ConfigError(
      f"prediction.variance='learned' needs a discrete process (ddpm), got {process.name!r}"
    )
  check_target(prediction['target'], process, prediction['sigma_data'])
  # Index num_classes is the null class: the network embeds num_classes + 1 classes.
  num_classes = spec.num_classes if config['conditional'] else 0
  # A learned variance is predicted for each dimension, next to the target.
  channels = spec.shape[-1] * (2 if variance == 'learned' else 1)
  augmented = (
    {'augment_dim': augmentation.LABEL_DIM} if config['augmentation']['probability'] else {}
  )
  network = component(
    NETWORKS,
    dict(config['network']) | augmented,
    'network',
    out_channels=channels,
    num_classes=num_classes,
    dtype=config['precision'],
  )
  conditioning = pick(NOISE_CONDITIONINGS, prediction['noise'], 'prediction.noise')
  if config['experts'] > 1:
    times = component(TIME_DISTRIBUTIONS, config['objective']['times'], 'objective.times')
    network = Experts(network, interval_edges(config['experts'], process, times, conditioning))
  return Model(
    process=process,
    network=network,
    target=prediction['target'],
    sigma_data=prediction['sigma_data'],
    scale_input=prediction['scale_input'],
    noise_conditioning=conditioning,
    variance=variance,
    num_classes=num_classes,
    classifier=_classifier(config, spec, conditioning),
  )


def _classifier(
  config: Mapping, spec: DataSpec, conditioning: Callable[[Process, Array], Array]
) -> Classifier | None:
  section = config['classifier']
  if not section['weight'] > 0:
    return None
  if not spec.num_classes:
    raise ConfigError(
      f'classifier.weight must be 0 for data without classes, got {section["weight"]} for'
      f' {spec.name}'
    )
  network = component(
    {**NETWORKS, **CLASSIFIERS},
    section['network'],
    'classifier.network',
    out_channels=spec.num_classes,
    num_classes=0,
    dtype=config['precision'],
  )
  # It always sees x at unit variance, whatever the model is given.
  return Classifier(network, conditioning, True, config['prediction']['sigma_data'])
