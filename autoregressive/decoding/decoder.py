"""The compiled programs of decoding, and the choice among them.

There is one program per way of decoding, at the top level of this module. The model and the few
settings that shape a program are static. Temperatures and other values, prompt lengths and sequence
lengths are arguments, and array sizes are rounded (`runner.bucketed_length`, `bucketed_prefix`), so
a sweep over them compiles almost nothing. Models are compared by their settings: two methods of the
same config share their programs.
"""

import dataclasses
import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Key, Num

from autoregressive.decoding.generate import generate
from autoregressive.decoding.runner import (
  Runner,
  bucketed_length,
  bucketed_prefix,
  prefill_calls,
)
from autoregressive.decoding.search import beam_search
from autoregressive.decoding.sequences import Generated, Limits, Prompt
from autoregressive.decoding.settings import DecodingSettings
from autoregressive.decoding.sliding import slide
from autoregressive.decoding.speculative import Speculated, speculate
from autoregressive.decoding.transforms import LogitTransforms
from autoregressive.model import Model
from autoregressive.orderings.base import Ordering
from common.data.spec import DataSpec
from common.devices.mesh import split_batch, whole
from common.method import Program, PyTree


class Draft(NamedTuple):
  """A smaller model that drafts tokens for the model to sample from.

  Attributes:
    ordering, model: as built from its config.
    params: its parameters.
    spec: the description of the data it was trained on.
  """

  ordering: Ordering
  model: Model
  params: PyTree
  spec: DataSpec


# Greedy decoding is another program, without noise and without transforms that keep the mode.
@functools.partial(jax.jit, static_argnames=('greedy',))
def draw_program(
  runner: Runner,
  keys: Key[Array, 'batch'],
  prompt: Prompt,
  transforms: LogitTransforms,
  guidance: Float[Array, ''] | None,
  greedy: bool,
  limits: Limits,
) -> Generated:
  """One draw after the other."""
  keys, prompt = split_batch((keys, prompt))
  return whole(generate(runner.unrolled(), keys, prompt, transforms, guidance, greedy, limits))


@functools.partial(jax.jit, static_argnames=('beams',))
def search_program(
  runner: Runner, prompt: Prompt, beams: int, length_penalty: Float[Array, ''], limits: Limits
) -> Generated:
  """The best sequence that beam search finds."""
  # Beams are sorted: only the best one of each sample leaves the device.
  found = beam_search(runner.unrolled(), split_batch(prompt), beams, length_penalty, limits)
  best = Generated(found.emissions[:, 0, :, None], found.log_prob[:, 0], found.lengths[:, 0])
  return whole(best)


@functools.partial(jax.jit, static_argnames=('greedy', 'ahead'))
def speculate_program(
  target: Runner,
  draft: Runner,
  keys: Key[Array, 'batch'],
  prompt: Prompt,
  transforms: LogitTransforms,
  greedy: bool,
  ahead: int,
  limits: Limits,
) -> Speculated:
  """Draws tokens that a draft proposes and the target model checks."""
  target, draft = target.unrolled(), draft.unrolled()
  keys, prompt = split_batch((keys, prompt))
  return whole(speculate(target, draft, keys, prompt, transforms, greedy, ahead, limits))


# All programs, for the tests that count compilations.
PROGRAMS = (draw_program, search_program, speculate_program)


@dataclasses.dataclass(frozen=True, eq=False)
class Decoder:
  """Decodes as the settings ask: speculatively, with beams, in windows, or one draw at a time.

  Attributes:
    model: as built from the config.
    ordering: its length is the context that the model was trained on.
    draft: a smaller model for speculative decoding, or None.
  """

  model: Model
  ordering: Ordering
  draft: Draft | None = None

  def decode(
    self, params: PyTree, keys: Key[Array, 'batch'], prompt: Prompt, settings: DecodingSettings
  ) -> tuple[Generated, int]:
    """The decoded sequences, and the number of sequential network evaluations.

    Args:
      params: parameters of the model.
      keys: one per sample.
      prompt: the given beginning of each sample; emissions and lengths are NumPy arrays.
      settings: with stops as tokens and the length in emissions (`RequestSampler.requested`).
    """
    length = prompt.emissions.shape[1]
    # A draft excludes beams, guidance and sliding (checked in requests.py).
    if self.draft is not None:
      decode = self._speculate
    elif settings.slide and length > self.ordering.length:
      decode = self._slide
    else:
      decode = self._search if settings.beams > 1 else self._draw
    made, calls = decode(Runner(self.model, params), keys, prompt, settings)
    # The padding of the arrays is cut off.
    made = Generated(made.emissions[:, :length], made.log_prob[:, :length], made.lengths)
    return made, calls

  def program(
    self, params: PyTree, keys: Key[Array, 'batch'], prompt: Prompt, settings: DecodingSettings
  ) -> Program:
    """The program that `decode` runs without a draft; of windows, that of one window."""
    runner, emissions = Runner(self.model, params), prompt.emissions
    if settings.slide:
      prompt = prompt._replace(emissions=emissions[:, : self.ordering.length])
    if settings.beams > 1:
      return self._search_program(runner, prompt, settings)
    return self._draws(runner, keys, *self._bucketed(prompt, settings), settings)

  def _draw(
    self, runner: Runner, keys: Key[Array, 'batch'], prompt: Prompt, settings: DecodingSettings
  ) -> tuple[Generated, int]:
    """One draw after the other, within the context."""
    made = self._draws(runner, keys, *self._bucketed(prompt, settings), settings).run()
    calls = self._prefill_calls(int(prompt.lengths.min()), settings)
    return made, calls + _steps(made, prompt, settings)

  def _search(
    self, runner: Runner, keys: Key[Array, 'batch'], prompt: Prompt, settings: DecodingSettings
  ) -> tuple[Generated, int]:
    """Beam search, which draws nothing."""
    del keys
    made = self._search_program(runner, prompt, settings).run()
    calls = self._prefill_calls(int(prompt.lengths.min()), settings)
    return made, calls + _steps(made, prompt, settings)

  def _search_program(self, runner: Runner, prompt: Prompt, settings: DecodingSettings) -> Program:
    padded, limits = self._bucketed(prompt, settings)
    penalty = jnp.float32(settings.length_penalty)
    return Program(search_program, (runner, padded, settings.beams, penalty, limits))

  def _speculate(
    self, runner: Runner, keys: Key[Array, 'batch'], prompt: Prompt, settings: DecodingSettings
  ) -> tuple[Generated, int]:
    """Speculative draws; evaluations of the draft are not counted."""
    padded, limits = self._bucketed(prompt, settings)
    made, rounds = speculate_program(
      runner,
      Runner(self.draft.model, self.draft.params),
      keys,
      padded,
      settings.program_transforms(),
      settings.greedy,
      settings.draft_ahead,
      limits,
    )
    # A round is one pass of the target model.
    return made, self._prefill_calls(int(prompt.lengths.min()), settings) + int(rounds)

  def _slide(
    self, runner: Runner, keys: Key[Array, 'batch'], prompt: Prompt, settings: DecodingSettings
  ) -> tuple[Generated, int]:
    """One draw after the other, beyond the context."""
    made, given = slide(
      functools.partial(self._draw_window, runner, keys, prompt, settings),
      np.asarray(prompt.emissions),
      prompt.lengths,
      self.ordering.length,
      settings.stop_rows(),
      self.ordering.period,
    )
    # Each window processes its given emissions again.
    calls = sum(self._prefill_calls(shortest, settings) for shortest in given)
    return made, calls + _steps(made, prompt, settings)

  def _draw_window(
    self,
    runner: Runner,
    keys: Key[Array, 'batch'],
    prompt: Prompt,
    settings: DecodingSettings,
    emissions: Num[np.ndarray, 'batch context values'],
    lengths: Int[np.ndarray, 'batch'],
    offset: Int[Array, ''],
  ) -> Generated:
    """One window of longer sequences, from the offset on."""
    prefix = bucketed_prefix(self.model.network, int(lengths.min()), self.ordering.length)
    # Windows have no stop: `slide` looks for stops across them.
    limits = Limits(prefix, settings.prefill_chunk, offset=offset)
    window = prompt._replace(emissions=emissions, lengths=lengths)
    return self._draws(runner, keys, window, limits, settings).run()

  def _draws(
    self,
    runner: Runner,
    keys: Key[Array, 'batch'],
    prompt: Prompt,
    limits: Limits,
    settings: DecodingSettings,
  ) -> Program:
    # Guidance doubles the batch, so a weight of 1 uses the program without guidance.
    guidance = jnp.float32(settings.guidance) if settings.guidance != 1 else None
    transforms = settings.program_transforms()
    arguments = (runner, keys, prompt, transforms, guidance, settings.greedy, limits)
    return Program(draw_program, arguments)

  def _bucketed(self, prompt: Prompt, settings: DecodingSettings) -> tuple[Prompt, Limits]:
    """The prompt in arrays of a rounded length, and limits with the true length.

    Shapes are rounded and true lengths are arguments, so most lengths share a program.
    """
    length = prompt.emissions.shape[1]
    room = bucketed_length(length, self.ordering.length)
    prefix = bucketed_prefix(self.model.network, int(prompt.lengths.min()), room)
    padded = np.pad(prompt.emissions, ((0, 0), (0, room - length), (0, 0)))
    stop, end = settings.stop_rows(), jnp.int32(length)
    limits = Limits(prefix, settings.prefill_chunk, stop, end=end)
    return prompt._replace(emissions=padded), limits

  def _prefill_calls(self, shortest: int, settings: DecodingSettings) -> int:
    """Number of network evaluations for the first `shortest` emissions, which all prompts have."""
    # The last input is left for the first step; without a start that is the last emission.
    inputs = max(shortest - (self.model.start == 'none'), 0)
    return prefill_calls(self.model.network, inputs, settings.prefill_chunk)


def _steps(made: Generated, prompt: Prompt, settings: DecodingSettings) -> int:
  """Number of steps of the loop: up to the end, or with stops to the end of the longest sample."""
  length = prompt.emissions.shape[1]
  longest = int(made.lengths.max()) if settings.stop else length
  return longest - int(prompt.lengths.min())
