"""Texts from a trained model: a prompt continued, beyond the model's context where asked for."""

from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from common.data import tokenizers
from common.method import Request
from experiments import runs


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
) -> list[str]:
  """Draws texts.

  What does not fit the model's context is drawn in windows: each call is given the last half of
  the context.

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
  tokens = np.repeat(given[None], num, 0)
  key, calls = jax.random.key(seed), 0
  while tokens.shape[1] < len(given) + length:
    room = context - 1 if calls == 0 else context // 2
    past = tokens[:, -room:]
    request = Request(num, past=past, options=options)
    samples = run.method.sample(run.params, jax.random.fold_in(key, calls), request)
    tokens = np.concatenate([tokens, np.asarray(samples.x)[:, past.shape[1] :]], 1)
    calls += 1
    if stop and all(stop in tokenizer.decode(row[len(given) :]) for row in tokens):
      break
  drawn = [tokenizer.decode(row[len(given) :][:length]) for row in tokens]
  if stop:
    drawn = [text.partition(stop)[0] for text in drawn]
  return [(prompt or '') + text for text in drawn]
