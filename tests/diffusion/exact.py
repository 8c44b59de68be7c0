"""Data whose denoiser is known in closed form, for every process."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from diffusion.predictions import Pair


class Gaussians(NamedTuple):
  """A mixture of Gaussians in the plane (or any dimension), of one or more components.

  Attributes:
    weights: [k], adding up to 1.
    means: [k, d].
    covariances: [k, d, d].
  """

  weights: np.ndarray
  means: np.ndarray
  covariances: np.ndarray

  @property
  def mean(self):
    return self.weights @ self.means

  @property
  def covariance(self):
    centred = self.means - self.mean
    between = np.einsum('k,ki,kj->ij', self.weights, centred, centred)
    return np.einsum('k,kij->ij', self.weights, self.covariances) + between

  def denoiser(self, process):
    """(x [batch, d], t [batch]) -> Pair: the posterior means of data and noise."""

    spreads, axes = np.linalg.eigh(self.covariances)  # [k, d], [k, d, d]

    def one(x, t):
      alpha, sigma = process.alpha(t), process.sigma(t)

      def component(mean, spread, axes):
        variance = alpha**2 * spread + sigma**2
        offset = axes.T @ (x - alpha * mean)
        clean, noise = (
          mean + axes @ (alpha * spread / variance * offset),
          axes @ (offset / variance),
        )
        log_density = -0.5 * jnp.sum(offset**2 / variance + jnp.log(variance))
        # The noise part is written without a division by sigma: exact at alpha = 0 too.
        return clean, sigma * noise, log_density

      fixed = (jnp.asarray(part, x.dtype) for part in (self.means, spreads, axes))
      clean, noise, log_density = jax.vmap(component)(*fixed)
      share = jax.nn.softmax(log_density + jnp.log(jnp.asarray(self.weights, x.dtype)))
      return share @ clean, share @ noise

    return lambda x, t: Pair(*jax.vmap(one)(x, t))

  def noisy(self, process, t, num, seed=0):
    """[num, d] draws of x at time t."""
    rng = np.random.default_rng(seed)
    which = rng.choice(len(self.weights), num, p=self.weights)
    roots = np.linalg.cholesky(self.covariances)
    dim = self.means.shape[1]
    clean = self.means[which] + np.einsum('nij,nj->ni', roots[which], rng.normal(size=(num, dim)))
    alpha, sigma = (float(f(jnp.asarray(t))) for f in (process.alpha, process.sigma))
    return jnp.asarray(alpha * clean + sigma * rng.normal(size=(num, dim)))


def isotropic(std, dim=1):
  """N(0, std²·I)."""
  return Gaussians(np.ones(1), np.zeros((1, dim)), std**2 * np.eye(dim)[None])


GAUSSIAN = Gaussians(np.ones(1), np.array([[0.7, -0.4]]), np.array([[[0.5, 0.2], [0.2, 0.3]]]))
MIXTURE = Gaussians(
  np.array([0.3, 0.7]),
  np.array([[-1.0, 0.5], [0.8, -0.2]]),
  np.array([[[0.10, 0.03], [0.03, 0.05]], [[0.06, -0.02], [-0.02, 0.12]]]),
)
