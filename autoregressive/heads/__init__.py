"""Heads: from the outputs of a network at one position to a distribution over one emission.

A head is a frozen dataclass with
  size: how many outputs of the network it takes per emission;
  rows: rows of a table that embeds a value; 0 where values enter the network as numbers, by
    numbers(emission) -> floats [..., values];
  discrete: whether `logits` gives a table of logits, which decoding may transform;
  likelihood: whether log_prob is one (of quantiles it is a score);
  log_prob(outputs [..., size], emission [..., values]) -> nats per emission [...];
  sample(outputs, key), mode(outputs) -> emission [..., values].
Everything is float32, whatever the network computes in. Heads over values in [0, vocabulary) take
the setting `vocabulary`; the others are over numbers (autoregressive/heads/numbers.py).
"""

from collections.abc import Callable, Mapping

from autoregressive.heads.categorical import Bernoulli, Categorical
from autoregressive.heads.mixture import LogisticMixture
from autoregressive.heads.numbers import Gaussian, NegativeBinomial, Quantiles, StudentT
from common.config import ConfigError, component, settings_of

HEADS: Mapping[str, Callable] = {
  'categorical': Categorical,
  'bernoulli': Bernoulli,
  'logistic_mixture': LogisticMixture,
  'gaussian': Gaussian,
  'student_t': StudentT,
  'negative_binomial': NegativeBinomial,
  'quantiles': Quantiles,
}


def build_head(settings: Mapping, ordering):
  """The head that a config's `head` section names, for the emissions of an ordering.

  Raises:
    ConfigError: for an unknown head or setting, or one over numbers where the emissions are
      values of a vocabulary, or the other way round; for one of counts where they are none.
  """
  given = {'values': ordering.values, 'vocabulary': ordering.vocabulary}
  name = settings.get('name')
  if name in HEADS and ('vocabulary' in settings_of(HEADS[name])) != bool(ordering.vocabulary):
    kind = f'values in [0, {ordering.vocabulary})' if ordering.vocabulary else 'numbers'
    raise ConfigError(f'head {name!r} does not suit emissions that are {kind}')
  head = component(HEADS, settings, 'head', **given)
  if getattr(head, 'counts', False) and not getattr(ordering, 'counts', True):
    raise ConfigError(f'head {name!r} is over whole numbers from 0; the data have others')
  return head
