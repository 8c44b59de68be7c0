"""Floating-point operations of a traced program: its matrix products and convolutions.

A product of [m, k] and [k, n] counts 2·m·k·n operations, and a convolution as the product that it
is. Everything else (norms, activations, the optimiser) is left out, as is usual; so are kernels
that JAX cannot look into (Pallas, cuDNN), and a `while` counts as one pass. XLA's own cost analysis
is not used, because it counts only a part of a convolution on some backends.

Model FLOPs are three times those of the forward pass: the backward pass has two products for each
of them (Kaplan et al. 2020, section 2.1). They depend only on the architecture and the loss:
activations that are computed again in the backward pass do not count, and frozen parameters count
as trained ones. Attention counts all pairs of positions, causal or not (Chowdhery et al. 2022,
appendix B: 6·N + 12·layers·width·positions for a token). Where trainings are compared, the traced
gradient is counted instead (common/training/program.py: `training_cost`).
"""

import math
from collections.abc import Callable, Iterator
from typing import Any

import jax
from jax.extend import core

# True while a program is only traced for its operations: attention is then the plain formula
# (common/attention.py), because JAX cannot look into a kernel, and blocks skip masked keys.
counting = jax.make_user_context(False)


def trace(function: Callable, *arguments: Any) -> core.Jaxpr:
  """The Jaxpr of a function, with attention as its formula; only shapes of arguments matter."""
  with counting(True):
    return jax.make_jaxpr(function)(*arguments).jaxpr


def count(jaxpr: core.Jaxpr) -> int:
  """The operations of one run of a program, as the Jaxpr of `jax.jit(...).trace` describes it."""
  total = 0
  for equation in jaxpr.eqns:
    name, params = equation.primitive.name, equation.params
    inner = [count(part) for part in _parts(params)]
    if name == 'dot_general':
      total += _product(equation)
    elif name == 'conv_general_dilated':
      total += _convolution(equation)
    elif name == 'cond':
      total += max(inner)  # one branch runs: the most expensive
    elif name != 'pallas_call':  # its body is only one block of the work
      total += sum(inner) * _repetitions(name, params)
  return total


def has(jaxpr: core.Jaxpr, primitive: str) -> bool:
  """Whether a program has a primitive of JAX anywhere, such as 'while'."""
  return any(
    equation.primitive.name == primitive
    or any(has(part, primitive) for part in _parts(equation.params))
    for equation in jaxpr.eqns
  )


def has_convolutions(jaxpr: core.Jaxpr) -> bool:
  """Whether a program has a convolution anywhere."""
  return has(jaxpr, 'conv_general_dilated')


def _repetitions(name: str, params: dict[str, Any]) -> int:
  """How often the program inside an equation runs, on all devices together."""
  if name == 'shard_map':
    return math.prod(params['mesh'].shape[axis] for axis in params['newly_manual_axes'])
  return params.get('length', 1)  # of a scan


def _parts(params: dict[str, Any]) -> Iterator[core.Jaxpr]:
  """The programs inside an equation: a body, a called function, the branches of a condition."""
  for value in params.values():
    for part in value if isinstance(value, tuple | list) else (value,):
      if isinstance(part, core.ClosedJaxpr):
        yield part.jaxpr
      elif isinstance(part, core.Jaxpr):
        yield part


def _product(equation: core.JaxprEqn) -> int:
  (contracted, _), _ = equation.params['dimension_numbers']
  left, out = equation.invars[0].aval.shape, equation.outvars[0].aval.shape
  return 2 * math.prod(out) * math.prod(left[axis] for axis in contracted)


def _convolution(equation: core.JaxprEqn) -> int:
  # Each output is a sum over the kernel's window and its input channels (of one group). In the
  # gradient of a strided convolution, only one in `lhs_dilation` inputs is not a filled-in zero.
  kernel, out = equation.invars[1].aval.shape, equation.outvars[0].aval.shape
  outputs = kernel[equation.params['dimension_numbers'].rhs_spec[0]]
  filled_in = math.prod(equation.params['lhs_dilation'])
  return 2 * math.prod(out) * math.prod(kernel) // (outputs * filled_in)
