"""A network that says of which class noisy data are, to guide samples to a class."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from common.method import PyTree
from diffusion.networks.base import DiffusionNetwork
from diffusion.predictions import expand, preconditioning
from diffusion.processes.process import Process


@dataclasses.dataclass(frozen=True, eq=False)  # hashed by identity: part of a key of programs
class Classifier:
  """A classifier of noisy data (Dhariwal & Nichol 2021, section 4).

  Attributes:
    network: gives logits of the classes, for each pixel or for the whole image.
    noise_conditioning: (process, t) -> the noise level that the network is given.
    scale_input: whether the network sees c_in·x, of unit variance, instead of x.
    sigma_data: standard deviation of the data, for c_in.
  """

  network: DiffusionNetwork
  noise_conditioning: Callable[[Process, Array], Array]
  scale_input: bool
  sigma_data: float

  def init(self, key: Key[Array, ''], x: Float[Array, 'batch *shape']) -> PyTree:
    """Parameters of the network."""
    return self.network.init(key, x, jnp.zeros(x.shape[0], jnp.float32), None)['params']

  def log_probs(
    self,
    params: PyTree,
    process: Process,
    x: Float[Array, 'batch *shape'],
    t: Float[Array, 'batch'],
    **settings: Any,
  ) -> Float[Array, 'batch classes']:
    """log p(class | x, t); logits of pixels are averaged over the image.

    Args:
      params: parameters of the network.
      process: the process that made x.
      x: noisy data.
      t: their times.
      **settings: `train` and `key`, see `logits`.
    """
    y = self.logits(params, process, x, t, **settings)
    return jax.nn.log_softmax(y.mean(axis=range(1, y.ndim - 1)))

  def logits(
    self,
    params: PyTree,
    process: Process,
    x: Float[Array, 'batch *shape'],
    t: Float[Array, 'batch'],
    train: bool = False,
    key: Key[Array, ''] | None = None,
  ) -> Float[Array, 'batch *space classes']:
    """The output of the network; `key` is that of its dropout."""
    if self.scale_input:
      c_in = preconditioning(process.alpha(t), process.sigma(t), self.sigma_data).c_in
      x = expand(c_in, x) * x
    return self.network.apply(
      {'params': params},
      x,
      self.noise_conditioning(process, t),
      None,
      train=train,
      rngs={} if key is None else {'dropout': key},
    )
