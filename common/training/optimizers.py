"""Optax chains from the `optimizer` section of a config."""

import re
from collections.abc import Callable, Mapping

import jax
import optax

from common.config import ConfigError, length, pick, suggestion
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


def make_schedules(settings: Mapping, total: int, epoch: int) -> dict[str, optax.Schedule]:
  """The schedule of each of `settings.groups`, by name; see `make_schedule`."""
  groups = settings.get('groups') or {}
  return {name: make_schedule(_of_group(settings, name), total, epoch) for name in groups}


def _of_group(settings: Mapping, name: str) -> dict:
  """The settings of a group: those of the optimiser, with what the group replaces.

  Raises:
    ConfigError: for a group without paths, or with a setting that groups do not have.
  """
  group = dict(settings['groups'][name])
  known = (set(settings) | {'paths'}) - {'clip', 'frozen', 'groups'}
  for key in group:
    if key not in known:
      raise ConfigError(f'unknown setting optimizer.groups.{name}.{key};{suggestion(key, known)}')
  if not group.get('paths'):
    raise ConfigError(f'optimizer.groups.{name} needs paths, a pattern of parameters')
  return dict(settings) | group


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


FROZEN, REST = 'frozen', ''  # names that no group has


def make_optimizer(
  settings: Mapping,
  schedule: optax.Schedule,
  schedules: Mapping[str, optax.Schedule] | None = None,
) -> optax.GradientTransformation:
  """The chain: clip by global norm, then the optimiser, with decoupled weight decay.

  Parameters whose path `settings.frozen` matches do not move, do not count for the norm and have
  no state. Of `settings.groups` the first whose `paths` match a parameter replaces settings for it.

  Args:
    settings: the `optimizer` section of a config.
    schedule: the learning rate by step.
    schedules: that of each group (`make_schedules`).

  Raises:
    ConfigError: unknown optimiser or setting of a group; weight decay where the optimiser has none;
      when the chain meets the parameters: paths that match none of them.
  """
  groups, frozen = settings.get('groups') or {}, settings.get('frozen') or ''
  clip = [optax.clip_by_global_norm(settings['clip'])] if settings['clip'] else []
  if not groups and not frozen:
    return optax.chain(*clip, _make_rule(settings, schedule))
  rules = {REST: _make_rule(settings, schedule), FROZEN: optax.set_to_zero()}
  for name in groups:
    rules[name] = _make_rule(_of_group(settings, name), (schedules or {})[name])
  patterns = ({FROZEN: frozen} if frozen else {}) | {k: g['paths'] for k, g in groups.items()}
  if frozen:
    still = lambda params: jax.tree.map(lambda name: name == FROZEN, _labels(params, patterns))
    clip = [optax.masked(optax.set_to_zero(), still), *clip]
  return optax.chain(*clip, optax.partition(rules, lambda params: _labels(params, patterns)))


def _labels(params: PyTree, patterns: Mapping[str, str]) -> PyTree:
  """For each parameter the first name whose pattern its path matches, else REST."""

  def label(path, _) -> str:
    name = path_name(path)
    return next((k for k, pattern in patterns.items() if re.search(pattern, name)), REST)

  labels = jax.tree_util.tree_map_with_path(label, params)
  for name, pattern in patterns.items():
    if name not in jax.tree.leaves(labels):
      where = 'frozen' if name == FROZEN else f'groups.{name}.paths'
      raise ConfigError(f'optimizer.{where}={pattern!r} matches no parameter')
  return labels


def _make_rule(settings: Mapping, schedule: optax.Schedule) -> optax.GradientTransformation:
  """The optimiser that settings name."""
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
  return make()
