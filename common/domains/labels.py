"""The class that a flag asks for: --label=3, --label=cat, --label=none."""

import jax.numpy as jnp
from jaxtyping import Array, Int

from common.data.spec import DataSpec


def parse_label(
  text: str | None, num: int, spec: DataSpec, labelled: bool = True
) -> Int[Array, 'num'] | None:
  """The classes of `num` samples; None if the data have no classes, or no class is requested.

  Args:
    text: name or number of a class; 'none' for no class; None for all classes in turn.
    num: number of samples.
    spec: the data.
    labelled: whether samples can be requested by class; if not, `text=None` gives no class.

  Raises:
    ValueError: for a class that the data do not have.
  """
  if text is None:
    return jnp.arange(num) % spec.num_classes if spec.num_classes and labelled else None
  if not spec.num_classes:
    raise ValueError(f'--label={text!r}: {spec.name} has no classes; leave the flag out')
  names = list(spec.class_names)
  # Names come first: a class may itself be named '3' or 'none'.
  if text in names:
    return jnp.full(num, names.index(text))
  if text.isdecimal() and int(text) < spec.num_classes:
    return jnp.full(num, int(text))
  if text == 'none':
    return None
  raise ValueError(f'--label={text!r} is not a class of {spec.name}; known: {", ".join(names)}')
