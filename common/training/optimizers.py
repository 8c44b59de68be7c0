"""Optax chains and learning-rate schedules from the `optimizer` section of a config."""

import functools
import math
import re
from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int

from common.config import ConfigError, check_setting, pick
from common.method import PyTree
from common.ranges import PATTERN, Setting, suggestion
from common.training.schedule import parse_steps
from common.trees import path_name


def make_lr_schedule(
  settings: Mapping, total: int, epoch: int, batch_size: int | None = None
) -> optax.Schedule:
  """The learning rate at each step: a linear warm-up, then the schedule that `settings` names.

  Args:
    settings: the `optimizer` section of a config.
    total: steps in the run.
    epoch: steps in an epoch.
    batch_size: examples in a step, for lengths in examples.

  Raises:
    ConfigError: for an unknown schedule, a warm-up that leaves no step to train, or a drop to 0 or
      at no step of the run.
  """
  warmup = parse_steps(settings['warmup'], 'optimizer.warmup', epoch, total, batch_size)
  if warmup >= total:
    raise ConfigError(
      f'optimizer.warmup must be shorter than the run of {total} steps, got {warmup}'
    )
  cooldown = parse_steps(settings['cooldown'], 'optimizer.cooldown', epoch, total, batch_size)
  make = pick(LR_SCHEDULES, settings['schedule'], 'optimizer.schedule')
  after_warmup = make(settings, total - warmup, warmup, cooldown)
  if warmup == 0:
    return after_warmup
  # From peak/warmup, not from 0, so that the first step moves the parameters.
  peak = settings['learning_rate']
  rise = optax.linear_schedule(peak / warmup, peak, max(warmup - 1, 1))
  return optax.join_schedules([rise, after_warmup], [warmup])


# The schedules after the warm-up: `steps` is the rest of the run, and optax calls them with the
# number of steps since the end of the warm-up.


def _constant(settings: Mapping, steps: int, warmup: int, cooldown: int) -> optax.Schedule:
  """The learning rate stays at its peak."""
  del steps, warmup, cooldown
  return optax.constant_schedule(settings['learning_rate'])


def _cosine(settings: Mapping, steps: int, warmup: int, cooldown: int) -> optax.Schedule:
  """Half a cosine from the peak to `final` (Loshchilov & Hutter 2017)."""
  del warmup, cooldown
  return optax.cosine_decay_schedule(settings['learning_rate'], steps, settings['final'])


def _rsqrt(settings: Mapping, steps: int, warmup: int, cooldown: int) -> optax.Schedule:
  """Falls as 1/√step from the end of the warm-up (Vaswani et al. 2017, eq. 3)."""
  del steps, cooldown
  return functools.partial(_inverse_square_root, settings['learning_rate'], max(warmup, 1))


def _inverse_square_root(
  peak: float, timescale: int, n: int | Int[Array, '']
) -> float | Float[Array, '']:
  """peak · sqrt(timescale / (timescale + n)): at n = 0 the peak, where the warm-up ends."""
  return peak * ((n + timescale) / timescale) ** -0.5


def _trapezoid(settings: Mapping, steps: int, warmup: int, cooldown: int) -> optax.Schedule:
  """Constant, then linear to `final` over the last `cooldown`."""
  del warmup
  peak = settings['learning_rate']
  fall = optax.linear_schedule(peak, peak * settings['final'], cooldown)
  return optax.join_schedules([optax.constant_schedule(peak), fall], [max(steps - cooldown, 0)])


def _drop(settings: Mapping, steps: int, warmup: int, cooldown: int) -> optax.Schedule:
  """Constant, then constant at `final` times the peak over the last `cooldown`."""
  del warmup
  if not (0 < cooldown < steps and settings['final'] > 0):
    raise ConfigError(
      "optimizer.schedule='drop' needs optimizer.final above 0, and an optimizer.cooldown above 0 "
      f'and below the {steps} steps after the warm-up; got {settings["final"]:g} and {cooldown}'
    )
  peak = settings['learning_rate']
  rates = [optax.constant_schedule(rate) for rate in (peak, peak * settings['final'])]
  return optax.join_schedules(rates, [steps - cooldown])


def _exponential(settings: Mapping, steps: int, warmup: int, cooldown: int) -> optax.Schedule:
  """The rate of each step is `learning_rate_decay` times the last one's."""
  del steps, warmup, cooldown
  # The logarithm in float64: in float32, 0.999995 is so inexact that its power is 3 % off after a
  # million steps.
  log_factor = math.log(settings['learning_rate_decay'])
  return functools.partial(_exponential_decay, settings['learning_rate'], log_factor)


def _exponential_decay(peak: float, log_factor: float, n: int | Int[Array, '']) -> Float[Array, '']:
  """peak · factor^n."""
  return peak * jnp.exp(n * log_factor)


LR_SCHEDULES = {
  'constant': _constant,
  'cosine': _cosine,
  'drop': _drop,
  'exponential': _exponential,
  'rsqrt': _rsqrt,
  'trapezoid': _trapezoid,
}


def make_group_lr_schedules(
  settings: Mapping, total: int, epoch: int, batch_size: int | None = None
) -> dict[str, optax.Schedule]:
  """{name: learning-rate schedule} for `settings.groups`; see `make_lr_schedule`."""
  groups = settings.get('groups') or {}
  return {
    name: make_lr_schedule(_group_settings(settings, name), total, epoch, batch_size)
    for name in groups
  }


def _group_settings(settings: Mapping, name: str) -> dict:
  """The settings of the optimiser with the replacements of one group.

  Raises:
    ConfigError: for a group without paths, or with a setting that groups do not have.
  """
  # Clipping uses one norm for all groups, `frozen` is one pattern for all parameters, and
  # `nan_to_num` comes before both.
  group = dict(settings['groups'][name])
  known = (set(settings) | {'paths'}) - {'clip', 'frozen', 'groups', 'nan_to_num'}
  for key in group:
    if key not in known:
      raise ConfigError(f'unknown setting optimizer.groups.{name}.{key};{suggestion(key, known)}')
  if not group.get('paths'):
    raise ConfigError(
      f"optimizer.groups.{name} needs paths, a regular expression for parameters such as '^head/'"
    )
  check_setting(f'optimizer.groups.{name}.paths', group['paths'], Setting('', PATTERN))
  return dict(settings) | group


def decay_mask(pattern: str) -> Callable[[PyTree], PyTree]:
  """A function of parameters: True where weight decay applies, False where `pattern` matches."""
  return functools.partial(_unmatched, pattern)


def _unmatched(pattern: str, params: PyTree) -> PyTree:
  return jax.tree_util.tree_map_with_path(
    lambda path, _: not (pattern and re.search(pattern, path_name(path))), params
  )


SHOWN_PATHS = 5  # in the message about a pattern that matches none
FROZEN, REST = 'frozen', ''  # labels for `optax.partition`, besides the names of groups


def make_optimizer(
  settings: Mapping,
  lr_schedule: optax.Schedule,
  group_lr_schedules: Mapping[str, optax.Schedule] | None = None,
) -> optax.GradientTransformation:
  """The chain: clip by global norm, then the optimiser, with decoupled weight decay.

  Parameters whose path matches `settings.frozen` stay fixed, do not count in the gradient norm and
  have no optimiser state. Any other parameter belongs to the first of `settings.groups` whose
  `paths` match it, and uses that group's settings.

  Args:
    settings: the `optimizer` section of a config.
    lr_schedule: the learning rate at each step.
    group_lr_schedules: the schedule of each group (`make_group_lr_schedules`).

  Raises:
    ConfigError: for an unknown optimiser or group setting; for weight decay with an optimiser that
      has none; and, once the chain is given parameters, for a pattern that matches none of them.
  """
  groups, frozen = settings.get('groups') or {}, settings.get('frozen') or ''
  clip = [optax.clip_by_global_norm(settings['clip'])] if settings['clip'] else []
  if not groups and not frozen:
    return optax.chain(*clip, _make_rule(settings, lr_schedule))
  rules = {REST: _make_rule(settings, lr_schedule), FROZEN: optax.set_to_zero()}
  for name in groups:
    rules[name] = _make_rule(_group_settings(settings, name), (group_lr_schedules or {})[name])
  # `frozen` comes first: a frozen parameter stays frozen even if a group matches it.
  patterns = ({FROZEN: frozen} if frozen else {}) | {k: g['paths'] for k, g in groups.items()}
  if frozen:
    # Before clipping: gradients of frozen parameters would otherwise count in the norm.
    is_frozen = functools.partial(_is_frozen, patterns)
    clip = [optax.masked(optax.set_to_zero(), is_frozen), *clip]
  return optax.chain(*clip, optax.partition(rules, functools.partial(_labels, patterns)))


def _labels(patterns: Mapping[str, str], params: PyTree) -> PyTree:
  """For each parameter, the first name whose pattern matches its path, or REST."""
  # Optax calls this while `init` is traced, so a pattern without a match fails before training.
  labels = jax.tree_util.tree_map_with_path(
    lambda path, _: _first_match(patterns, path_name(path)), params
  )
  for name, pattern in patterns.items():
    if name not in jax.tree.leaves(labels):
      where = 'frozen' if name == FROZEN else f'groups.{name}.paths'
      paths = [path_name(path) for path, _ in jax.tree_util.tree_leaves_with_path(params)]
      raise ConfigError(
        f'optimizer.{where}={pattern!r} matches none of the {len(paths)} parameters, such as '
        + ', '.join(paths[:: max(len(paths) // SHOWN_PATHS, 1)][:SHOWN_PATHS])
      )
  return labels


def _first_match(patterns: Mapping[str, str], path: str) -> str:
  return next((name for name, pattern in patterns.items() if re.search(pattern, path)), REST)


def _is_frozen(patterns: Mapping[str, str], params: PyTree) -> PyTree:
  return jax.tree.map(lambda label: label == FROZEN, _labels(patterns, params))


def _make_rule(settings: Mapping, lr_schedule: optax.Schedule) -> optax.GradientTransformation:
  """The optimiser that the settings name, without clipping."""
  return pick(OPTIMIZERS, settings['name'], 'optimizer.name')(settings, lr_schedule)


def _adam(settings: Mapping, lr_schedule: optax.Schedule) -> optax.GradientTransformation:
  """Adam, without weight decay (Kingma & Ba 2015)."""
  _refuse_weight_decay(settings)
  s = settings
  return optax.adam(lr_schedule, b1=s['b1'], b2=s['b2'], eps=s['eps'])


def _refuse_weight_decay(settings: Mapping) -> None:
  if settings['weight_decay']:
    raise ConfigError(
      f"optimizer.name={settings['name']!r} has no weight decay; use 'adamw', or weight_decay=0"
    )


def _adamw(settings: Mapping, lr_schedule: optax.Schedule) -> optax.GradientTransformation:
  """Adam with decoupled weight decay (Loshchilov & Hutter 2019)."""
  s, mask = settings, decay_mask(settings['no_decay'])
  adam = dict(b1=s['b1'], b2=s['b2'], eps=s['eps'])
  return optax.adamw(lr_schedule, **adam, weight_decay=s['weight_decay'], mask=mask)


def _sgd(settings: Mapping, lr_schedule: optax.Schedule) -> optax.GradientTransformation:
  """Gradient descent with momentum; weight decay is added to the gradient."""
  s, mask = settings, decay_mask(settings['no_decay'])
  # Decay before momentum: it is added to the gradient, as an L2 penalty would be.
  decay = optax.add_decayed_weights(s['weight_decay'], mask)
  return optax.chain(decay, optax.sgd(lr_schedule, s['momentum']))


def _rmsprop(settings: Mapping, lr_schedule: optax.Schedule) -> optax.GradientTransformation:
  """The gradient over the root of its mean square, without a correction of its start."""
  _refuse_weight_decay(settings)
  return optax.rmsprop(lr_schedule, decay=settings['b2'], eps=settings['eps'], eps_in_sqrt=False)


def _muon(settings: Mapping, lr_schedule: optax.Schedule) -> optax.GradientTransformation:
  """Muon for matrices (Jordan et al. 2024), AdamW for all other parameters."""
  s = settings
  # Muon (Jordan et al. 2024) for matrices, AdamW with b1 and b2 for all other parameters.
  return optax.contrib.muon(
    lr_schedule,
    beta=s['momentum'],
    weight_decay=s['weight_decay'],
    weight_decay_mask=decay_mask(s['no_decay']),
    adam_b1=s['b1'],
    adam_b2=s['b2'],
  )


OPTIMIZERS = {'adam': _adam, 'adamw': _adamw, 'rmsprop': _rmsprop, 'sgd': _sgd, 'muon': _muon}
