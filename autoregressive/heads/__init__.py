"""Heads: from the outputs of a network at one position to a distribution over one emission.

They all derive from `base.Head`, which documents their members.
"""

from collections.abc import Mapping

from autoregressive.heads.base import Head
from autoregressive.heads.categorical import Bernoulli, Categorical
from autoregressive.heads.mixture import LogisticMixture
from autoregressive.heads.numbers import Gaussian, NegativeBinomial, Quantiles, StudentT
from autoregressive.heads.points import Percentage, Point
from autoregressive.orderings.base import Ordering
from common.config import ConfigError, component

HEADS: Mapping[str, type[Head]] = {
  'categorical': Categorical,
  'bernoulli': Bernoulli,
  'logistic_mixture': LogisticMixture,
  'gaussian': Gaussian,
  'student_t': StudentT,
  'negative_binomial': NegativeBinomial,
  'quantiles': Quantiles,
  'point': Point,
  'percentage': Percentage,
}


def build_head(settings: Mapping, ordering: Ordering) -> Head:
  """The head that a config's `head` section names, for the emissions of an ordering.

  Raises:
    ConfigError: for an unknown head or setting; for a head over numbers if the emissions are values
      of a vocabulary, or the reverse; for a head over counts if the data has other numbers.
  """
  name, numbers = settings.get('name'), not ordering.vocabulary
  if name in HEADS and HEADS[name].over_numbers != numbers:
    kind = 'numbers' if numbers else f'values in [0, {ordering.vocabulary})'
    suitable = [known for known, head in HEADS.items() if head.over_numbers == numbers]
    raise ConfigError(
      f'head {name!r} does not suit emissions that are {kind}; heads that do: {", ".join(suitable)}'
    )
  # `component` passes only the sizes that a head's constructor names.
  offer = {'values': ordering.values, 'vocabulary': ordering.vocabulary}
  head = component(HEADS, settings, 'head', **offer)
  if head.relative and not ordering.relative:
    raise ConfigError(
      f"head {name!r} needs the level of values: set ordering.name='horizon', or use 'point'"
    )
  if head.counts and not ordering.counts:
    raise ConfigError(
      f'head {name!r} is over whole numbers from 0, but the data has other numbers: use '
      "'gaussian', 'student_t' or 'quantiles'"
    )
  return head
