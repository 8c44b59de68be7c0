"""Classes of samples: those that a flag asks for, and as many of each as the data have."""

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int

from common.config import suggestion
from common.data.spec import DataSpec

MAX_LISTED = 20  # classes that a message lists


def parse_label(
  text: str | None, num: int, spec: DataSpec, labelled: bool = True
) -> Int[Array, 'num'] | None:
  """The classes of `num` samples; None if the data have no classes, or no class is requested.

  Args:
    text: name of a class, or its number if no class is named by a number; 'none' for no class; None
      for all classes in turn.
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
  # If classes are named 5, 7 and 10, class 2 is a mistake and not the third class.
  numbered = any(name.isdecimal() for name in names)
  if text.isdecimal() and int(text) < spec.num_classes and not numbered:
    return jnp.full(num, int(text))
  if text == 'none':
    return None
  known = suggestion(text, names)
  if len(names) > MAX_LISTED:
    known = f' it has {len(names)}, such as {", ".join(names[:MAX_LISTED])}'
  raise ValueError(f'--label={text!r} is not a class of {spec.name};{known}')


def class_cycle(counts: Int[np.ndarray, 'classes']) -> Int[np.ndarray, 'total']:
  """An order of classes in which every beginning has them in proportion to `counts`.

  It is the order in which the divisor method of Webster (Sainte-Laguë 1910) gives out seats. The
  whole order has exactly `counts` of each class; classes of equal counts come in turn.
  """
  classes = np.repeat(np.arange(len(counts)), counts)
  # Example j of n has the position (j + ½)/n: each class is spread evenly over [0, 1).
  positions = np.concatenate([(np.arange(count) + 0.5) / count for count in counts if count])
  # Stable: of equal positions, the class with the lower number comes first.
  return classes[np.argsort(positions, kind='stable')]
