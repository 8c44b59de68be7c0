"""Suites of races by name, for `twofold benchmark`."""

from collections.abc import Callable, Mapping

from experiments.benchmarks import autoregressive, diffusion
from experiments.benchmarks.loop import loop
from experiments.benchmarks.race import Race, Sizes


def train(sizes: Sizes, peers: bool) -> list[Race]:
  """Training steps of both families."""
  return [*autoregressive.train(sizes, peers), *diffusion.train(sizes, peers)]


SUITES: Mapping[str, Callable[[Sizes, bool], list[Race]]] = {
  'train': train,
  'recurrent': autoregressive.recurrent,
  'sample': diffusion.sample,
  'solvers': diffusion.solvers,
  'likelihood': diffusion.likelihood,
  'decode': autoregressive.decode,
  'pixelcnn': autoregressive.pixelcnn,
  'loop': loop,
}
# Needs --weights: published weights, which the others do without (language.py).
LANGUAGE = 'language'
# Runs alone, in processes of their own, and has another table (gpu.py, isolated.py).
GPU = 'gpu'
