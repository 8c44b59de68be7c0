"""Races of a published language model: decoding and prefill, next to transformers."""

import functools
import pathlib
import tempfile
import time
from collections.abc import Callable

import jax
import numpy as np

from autoregressive.decoding.settings import DecodingSettings
from autoregressive.decoding.stepwise import Session
from autoregressive.interop import weights
from autoregressive.interop.companions import load_companions
from autoregressive.method import build_model
from common import finetuning
from common.config import ConfigError
from common.method import Request
from experiments import runs
from experiments.benchmarks.race import OURS, Race, sampler

PROMPT, DRAWN, PREFILL = 32, 64, 512  # tokens
BATCHES = (1, 8)
STREAMED = 'twofold, streamed'
PEER = 'transformers'


def races(workdir: str, peers: bool) -> list[Race]:
  """The races of the run in a folder.

  Raises:
    ConfigError: for a run that is no language model.
  """
  start = time.perf_counter()
  run = runs.load(workdir)
  if run.data.spec.tokenizer is None or run.config['network']['name'] != 'transformer':
    raise ConfigError(f'--weights={workdir} must be a transformer over text')
  # On one device, which uses all cores: the batch may be 1.
  plain = finetuning.plain(run.params, run.config)
  params = jax.device_put(jax.device_get(plain), jax.devices()[0])
  loaded = time.perf_counter() - start
  theirs = _peer(run, workdir) if peers else None
  spec, (_, model) = run.data.spec, build_model(run.config, run.data.spec)
  rng = np.random.default_rng(0)
  tokens = rng.integers(0, spec.levels, (max(BATCHES), PREFILL)).astype(np.int32)
  session = Session(model, run.trained.context, params, DecodingSettings(), jax.random.key(0))
  note = f'{workdir}: {sum(x.size for x in jax.tree.leaves(params)):,} parameters, float32'
  made = []
  for batch in BATCHES:
    given = tokens[:batch, :PROMPT]
    options = {'length': PROMPT + DRAWN}
    request = Request(batch, past=given, options=options)
    contenders: dict[str, Callable] = {OURS: sampler(run.method, params, request)}
    if batch == 1:
      contenders[STREAMED] = functools.partial(stream, session, given[0])
    if theirs is not None:
      contenders[PEER] = functools.partial(_generate, theirs, given)
    name = f'decoding {DRAWN} tokens after {PROMPT}, batch {batch}'
    about = f'{note}; temperature 1, read in {loaded:.1f} s'
    made.append(Race(name, 'tokens/s', batch * DRAWN, contenders, about))
  contenders = {OURS: functools.partial(prefill, session, tokens[0])}
  if theirs is not None:
    contenders[PEER] = functools.partial(_prefill, theirs, tokens[:1])
  made.append(Race(f'prefill of {PREFILL} tokens, batch 1', 'tokens/s', PREFILL, contenders, note))
  return made


def stream(session: Session, given: np.ndarray) -> None:
  """Draws tokens one at a time, as a chat does."""
  session.clear()
  session.append(given)
  for _ in range(DRAWN):
    session.draw(1)


def prefill(session: Session, given: np.ndarray) -> None:
  """Takes in a prompt and draws one token, which waits for the result."""
  session.clear()
  session.append(given)
  session.draw(1)


def _peer(run: runs.Run, workdir: str):
  """The same weights in transformers."""
  import transformers

  companions = load_companions(pathlib.Path(workdir)).with_dtype('F32')
  params, levels = finetuning.plain(run.params, run.config), run.data.spec.levels
  made = weights.as_published(run.config, params, levels, run.trained.context - 1, companions)
  with tempfile.TemporaryDirectory() as folder:
    weights.write_published(made, f'{folder}/weights')
    return transformers.AutoModelForCausalLM.from_pretrained(f'{folder}/weights').eval()


def _generate(model, given: np.ndarray) -> None:
  import torch

  prompt = torch.as_tensor(given, dtype=torch.long)
  with torch.inference_mode():
    model.generate(
      prompt,
      attention_mask=torch.ones_like(prompt),
      max_new_tokens=DRAWN,
      min_new_tokens=DRAWN,
      do_sample=True,
      top_k=0,
      use_cache=True,
      pad_token_id=0,
    )


def _prefill(model, given: np.ndarray) -> None:
  import torch

  with torch.inference_mode():
    output = model(torch.as_tensor(given, dtype=torch.long), use_cache=True, logits_to_keep=1)
    output.logits[0, -1].argmax().item()
