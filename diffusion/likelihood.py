"""Likelihoods by name: the variational bound, and that of the probability flow."""

from collections.abc import Callable

from jaxtyping import Array, Float, Key

from common.config import ConfigError
from common.method import Likelihood
from diffusion.bound import Terms, continuous_bound, discrete_bound
from diffusion.flow import flow
from diffusion.predictions import Denoise
from diffusion.processes import Process

Estimator = Callable[..., Likelihood]  # (process, denoise, x0, levels, keys, variance)


def bound(
  process: Process,
  denoise: Denoise,
  x0: Float[Array, 'batch *dims'],
  levels: int,
  keys: Key[Array, 'batch'],
  variance: str,
  *,
  terms: int,
) -> Terms:
  """The variational bound, term by term: exact steps of a discrete process, else continuous time.

  Args:
    process: the diffusion process.
    denoise: (x, t [batch]) -> Pair.
    x0: data, on the grid of `levels` values in [-1, 1].
    levels: number of values of each dimension.
    keys: one per example.
    variance: of the reverse step of a discrete process.
    terms: network evaluations to spend per example on the middle term.
  """
  if process.steps:
    return discrete_bound(process, denoise, x0, levels, keys, terms=terms, variance=variance)
  return continuous_bound(process, denoise, x0, levels, keys, terms=terms)


def _vlb(terms: int = 32) -> Estimator:
  if terms < 2:
    raise ConfigError(f'likelihood.terms={terms}: at least 2, for a standard error')

  def estimate(process, denoise, x0, levels, keys, variance):
    found = bound(process, denoise, x0, levels, keys, variance, terms=terms)
    parts = {
      'prior': found.prior[:, None],
      'diffusion': found.diffusion,
      'reconstruction': found.reconstruction[:, None],
    }
    return Likelihood(found.total, found.standard_error, parts=parts)

  return estimate


LIKELIHOODS = {'vlb': _vlb, 'flow': flow}
