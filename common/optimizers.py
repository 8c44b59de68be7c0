"""Optax chains from the `optimizer` section of a config."""

import re
from collections.abc import Callable, Mapping

import jax
import optax

from common.config import ConfigError, length, pick
from common.method import PyTree


def make_schedule(settings: Mapping, total: int, epoch: int) -> optax.Schedule:
  """Learning rate by step: a linear warm-up, then the schedule that `settings` names.

  Args:
    settings: the `optimizer` section of a config.
    total: steps in the run.
    epoch: steps in an epoch.
  """
  warmup = length(settings['warmup'], 'optimizer.warmup', epoch, total)
  if warmup >= total:
    raise ConfigError(f'optimizer.warmup is {warmup} of {total} steps: no step is left to train')
  peak, final = settings['learning_rate'], settings['learning_rate'] * settings['final']
  cooldown = length(settings['cooldown'], 'optimizer.cooldown', epoch, total)
  schedules = {
    'constant': lambda: optax.constant_schedule(peak),
    'cosine': lambda: optax.cosine_decay_schedule(peak, total - warmup, settings['final']),
    'rsqrt': lambda: lambda n: peak * ((n + max(warmup, 1)) / max(warmup, 1)) ** -0.5,
    'trapezoid': lambda: optax.join_schedules(
      [optax.constant_schedule(peak), optax.linear_schedule(peak, final, cooldown)],
      [max(total - warmup - cooldown, 0)],
    ),
  }
  after = pick(schedules, settings['schedule'], 'optimizer.schedule')()
  if warmup == 0:
    return after
  # From peak/warmup, not from 0, so that the first step moves.
  rise = optax.linear_schedule(peak / warmup, peak, max(warmup - 1, 1))
  return optax.join_schedules([rise, after], [warmup])


def decay_mask(pattern: str) -> Callable[[PyTree], PyTree]:
  """A function of parameters: True where weight decay applies, False where `pattern` matches."""

  def mask(params: PyTree) -> PyTree:
    return jax.tree_util.tree_map_with_path(
      lambda path, _: not (pattern and re.search(pattern, path_name(path))), params
    )

  return mask


def path_name(path) -> str:
  """'a/b/kernel' for a path as `tree_map_with_path` gives it."""
  return jax.tree_util.keystr(path, simple=True, separator='/')


def make_optimizer(settings: Mapping, schedule: optax.Schedule) -> optax.GradientTransformation:
  """The chain: clip by global norm, then the optimiser, with decoupled weight decay.

  Args:
    settings: the `optimizer` section of a config.
    schedule: the learning rate by step.

  Raises:
    ConfigError: unknown optimiser; weight decay where the optimiser has none.
  """
  s = settings
  mask = decay_mask(s['no_decay'])
  adam = dict(b1=s['b1'], b2=s['b2'], eps=s['eps'])
  decay = dict(weight_decay=s['weight_decay'], mask=mask)
  optimizers = {
    'adam': lambda: optax.adam(schedule, **adam),
    'adamw': lambda: optax.adamw(schedule, **adam, **decay),
    'sgd': lambda: optax.chain(
      optax.add_decayed_weights(s['weight_decay'], mask), optax.sgd(schedule, s['momentum'])
    ),
    'muon': lambda: optax.contrib.muon(
      schedule,
      beta=s['momentum'],
      weight_decay=s['weight_decay'],
      weight_decay_mask=mask,
      adam_b1=s['b1'],
      adam_b2=s['b2'],
    ),
  }
  make = pick(optimizers, s['name'], 'optimizer.name')
  if s['name'] == 'adam' and s['weight_decay']:
    raise ConfigError("optimizer.name='adam' has no weight decay; use 'adamw', or weight_decay=0")
  clip = [optax.clip_by_global_norm(s['clip'])] if s['clip'] else []
  return optax.chain(*clip, make())
