"""Texts from a trained model: a prompt continued, beyond the model's context where asked for."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import numpy as np

from common.data import tokenizers
from common.method import Request
from experiments import runs


class Continued(NamedTuple):
  """Texts, and the log-probability in nats of what was drawn of each, under the model itself."""

  texts: list[str]
  log_probs: list[float]


def continued(
  run: runs.Run,
  prompt: str | None,
  *,
  num: int,
  length: int,
  seed: int,
  slide: bool = False,
  stop: str = '',
  options: Mapping[str, Any],
) -> Continued:
  """Draws texts.

  What does not fit the model's context is drawn as `sampling.slide` does it.

  Args:
    run: a model of text.
    prompt: what they begin with; None: nothing.
    num: how many.
    length: tokens to draw for each.
    seed: of all randomness.
    slide: take the end of a prompt that is longer than the context, which is refused otherwise.
    stop: a text before which each ends.
    options: sampler settings.

  Raises:
    ConfigError: for a prompt that is empty, too long, or has a character outside the vocabulary.
  """
  spec = run.data.spec
  tokenizer, context = spec.tokenizer, spec.shape[0]
  if prompt is None:
    given = np.array([tokenizers.opening(tokenizer)], np.int32)
  elif slide and prompt:
    given = tokenizer.encode(prompt).astype(np.int32)
  else:
    given = tokenizers.prompt_tokens(tokenizer, prompt, context)
  total = len(given) + length
  asked = {'length': total, 'slide': total > context, 'stop': (stop,) if stop else ()}
  request = Request(num, past=np.repeat(given[None], num, 0), options={**asked, **options})
  samples = run.method.sample(run.params, jax.random.key(seed), request)
  drawn = [tokenizer.decode(row[len(given) :]) for row in np.asarray(samples.x)]
  if stop:
    drawn = [text.partition(stop)[0] for text in drawn]
  log_probs = np.asarray(samples.log_prob).sum(1).tolist()
  return Continued([(prompt or '') + text for text in drawn], log_probs)
