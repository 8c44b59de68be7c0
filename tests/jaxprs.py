"""Shared by the tests that look into traced programs."""

from collections.abc import Iterator

import jax
from jax.extend import core


def equations(function, *args) -> Iterator[core.JaxprEqn]:
  """Every equation of the program that `function(*args)` traces to, also those inside others."""
  yield from _walk(jax.make_jaxpr(function)(*args).jaxpr)


def _walk(jaxpr: core.Jaxpr) -> Iterator[core.JaxprEqn]:
  for equation in jaxpr.eqns:
    yield equation
    for value in equation.params.values():
      for part in value if isinstance(value, tuple | list) else (value,):
        if isinstance(part, core.ClosedJaxpr | core.Jaxpr):
          yield from _walk(part.jaxpr if isinstance(part, core.ClosedJaxpr) else part)
