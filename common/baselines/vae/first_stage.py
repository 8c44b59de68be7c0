"""First stages: a trained VAE or VQ-VAE of this code, or published weights of an AutoencoderKL."""

import dataclasses
import functools
import hashlib
import json
import pathlib
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from absl import logging
from jaxtyping import Array, Float, Num

from common import flops
from common.baselines.vae import weights
from common.baselines.vae.model import Model, build_model
from common.baselines.vae.pixels import Gaussian
from common.checkpoints.digests import digests
from common.checkpoints.storage import finished_steps
from common.config import ConfigError, read_json
from common.data.latents.first_stage import FirstStage
from common.data.spec import DataSpec, from_unit, token_dtype
from common.files import in_bucket, to_path
from common.finetuning.sources import read_run
from common.method import PyTree
from common.training.schedule import total_steps
from common.trees import path_name

# The sections that a first stage depends on, besides its weights.
SECTIONS = ('network', 'latent', 'pixels', 'conditional', 'precision')


@dataclasses.dataclass(frozen=True, eq=False)
class VAEStage(FirstStage):
  """A VAE as a first stage: posterior means or codes, and the decoder's locations as pixels.

  Attributes:
    name: what it is, for messages.
    digest: hash of its weights and settings.
    model: the autoencoder.
    params: its parameters.
    distribution: whether it has a distribution of pixels, and not only their locations.
  """

  name: str
  digest: str
  model: Model
  params: PyTree
  distribution: bool = True

  @property
  def shape(self) -> tuple[int, ...]:
    return (*self.model.grid, self.model.latents.stored_channels)

  @property
  def levels(self) -> int:
    return self.model.latents.levels

  @property
  def parameters(self) -> int:
    return sum(leaf.size for leaf in jax.tree.leaves(self.params))

  def encode(self, x):
    return np.asarray(_encode(self.model, self.params, x))

  def decode(self, latents):
    return np.asarray(_decode(self.model, self.params, latents))

  def decode_flops(self):
    latents = jnp.zeros((1, *self.shape), token_dtype(self.levels) if self.levels else jnp.float32)
    decode = functools.partial(_decode, self.model)
    return flops.count(flops.trace(decode, self.params, latents))

  def nats(self, latents, x):
    return np.asarray(_nats(self.model, self.params, latents, x))


@functools.partial(jax.jit, static_argnums=0)
def _encode(model: Model, params: PyTree, x: Array) -> Num[Array, 'batch rows columns c']:
  return model.latents.to_data(params, model.features(params, x, None))


@functools.partial(jax.jit, static_argnums=0)
def _decode(model: Model, params: PyTree, data: Array) -> Array:
  outputs = _outputs(model, params, data)
  mean = model.pixels.mean(params.get('pixels', {}), outputs)
  return from_unit(mean, model.spec.levels)


@functools.partial(jax.jit, static_argnums=0)
def _nats(model: Model, params: PyTree, data: Array, x: Array) -> Float[Array, 'batch']:
  return -model.log_prob(params, _outputs(model, params, data), x)


def _outputs(model: Model, params: PyTree, data: Array) -> Array:
  return model.outputs(params, model.latents.from_data(params, data), None)


def read(text: str, spec: DataSpec, fingerprint: str) -> VAEStage:
  """The first stage at a path, for a dataset of images.

  Args:
    text: WORKDIR or WORKDIR@STEP of a run of the family 'vae', or a folder with an AutoencoderKL in
      the layout of diffusers.
    spec: describes the images.
    fingerprint: that of the images; a run must have been trained on them.

  Raises:
    ConfigError: for a path that holds neither, a run of another family, of other data, or one that
      needs classes, and images that do not suit.
    CheckpointError: for a checkpoint that does not exist or is damaged.
  """
  name, _, step = text.partition('@')
  if step not in ('', 'last', 'best') and not step.isdecimal():
    raise ConfigError(f"data.first_stage={text!r}: the step must be 'last', 'best' or a number")
  if in_bucket(to_path(name)):
    raise ConfigError(f'data.first_stage={text!r} must be on this machine: copy it here')
  folder = pathlib.Path(name).expanduser()
  if (folder / 'checkpoints').is_dir():
    config = read_json(folder / 'config.json')
    _check_run(text, config, read_json(folder / 'data.json'), spec, fingerprint)
    if not step.isdecimal():
      _report_unfinished(text, folder, config, spec)
    params = read_run(folder, int(step) if step.isdecimal() else step or 'last')
    distribution = True
  elif (folder / 'data.json').is_file():
    raise ConfigError(f'data.first_stage={text!r} has no checkpoint yet: train it first')
  elif (folder / 'config.json').is_file() and not step:
    config, params = _published(folder)
    distribution = False  # its scale is not published
  else:
    raise ConfigError(
      f'data.first_stage={text!r} must be the WORKDIR of a run of the family vae (train one with '
      'configs/vae/images.py), or a folder with an AutoencoderKL (config.json and safetensors)'
    )
  model = build_model(config, spec)
  params = _checked(text, model, params)
  return VAEStage(text, _digest(config, params), model, params, distribution)


def untrained(config: Mapping[str, Any], spec: DataSpec) -> VAEStage:
  """A first stage before its training: it knows the shapes of its latents and parameters alone.

  Raises:
    ConfigError: for a config of another family, or one that does not suit the images.
  """
  _check_family('the first stage', config, spec)
  model = build_model(config, spec)
  return VAEStage('a first stage that is not trained', '', model, _shapes(model))


def _published(folder: pathlib.Path) -> tuple[dict[str, Any], dict[str, Any]]:
  """The sections of a config, and the parameters, of published weights."""
  found = weights.read(folder)
  latent: dict[str, Any] = dict(name='gaussian', channels=found.latent_channels)
  # Decoding does not need the scale of the pixels' distribution.
  params = {'network': found.params, 'pixels': Gaussian().init(found.channels)}
  if found.codes:
    latent = dict(name='codes', channels=found.latent_channels, codes=found.codes, normalise=False)
    params['codebook'] = {'embedding': found.codebook}
  config = dict(
    precision='float32',
    conditional=False,
    network=dict(name='conv', **found.settings),
    latent=latent,
    pixels=dict(name='gaussian'),
  )
  return config, params


def _check_run(text: str, config: Mapping, data: Mapping, spec: DataSpec, fingerprint: str) -> None:
  _check_family(f'data.first_stage={text!r}', config, spec)
  if data['fingerprint'] != fingerprint:
    raise ConfigError(
      f'data.first_stage={text!r} was trained on {config["data"]["name"]} with digest '
      f'{data["fingerprint"]}, and {spec.name} has {fingerprint}: train a first stage on this data'
    )


def _report_unfinished(text: str, folder: pathlib.Path, config: Mapping, spec: DataSpec) -> None:
  """Logs a warning if the run has not reached its last step."""
  total = total_steps(config, spec.num_train)
  found = max(finished_steps(folder / 'checkpoints'), default=0)
  if found < total:
    logging.warning(
      'data.first_stage=%r has not finished: its last step is %d of %d. With more steps its '
      'latents change, and this model is of no use: wait for the end, or train on a copy of it',
      *(text, found, total),
    )


def _check_family(what: str, config: Mapping, spec: DataSpec) -> None:
  if config['family'] != 'vae':
    raise ConfigError(f"{what} must be a run of the family 'vae', got {config['family']!r}")
  if config['conditional'] and spec.num_classes:
    raise ConfigError(f'{what} needs the class of each image: train it with conditional=False')


def _checked(text: str, model: Model, params: PyTree) -> PyTree:
  """The parameters in the tree of the model. Raises ConfigError if they do not fit."""
  wanted = _shapes(model)
  found = {path_name(path): x for path, x in jax.tree_util.tree_leaves_with_path(params)}
  for path, leaf in jax.tree_util.tree_leaves_with_path(wanted):
    own = found.get(path_name(path))
    if own is None or own.shape != leaf.shape:
      got = 'none' if own is None else tuple(own.shape)
      raise ConfigError(
        f'data.first_stage={text!r} does not suit images of {model.spec.shape}: '
        f'{path_name(path)} must be {tuple(leaf.shape)}, got {got}'
      )
  return jax.tree_util.tree_map_with_path(lambda path, _: found[path_name(path)], wanted)


def _shapes(model: Model) -> PyTree:
  return jax.eval_shape(model.init, jax.random.key(0), model.spec.batch_struct(1)['x'])


def _digest(config: Mapping[str, Any], params: PyTree) -> str:
  sections = json.dumps({name: config[name] for name in SECTIONS}, sort_keys=True)
  leaves = {path_name(path): x for path, x in jax.tree_util.tree_leaves_with_path(params)}
  text = sections + json.dumps(digests(leaves), sort_keys=True)
  return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()
