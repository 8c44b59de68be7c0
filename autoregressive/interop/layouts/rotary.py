"""Rotary positions in `config.json`, and as settings of the transformer."""

import math
from collections.abc import Mapping
from typing import Any

from autoregressive.networks.positions import LLAMA3_TURNS, YARN_TURNS
from autoregressive.networks.transformer import Transformer
from common.config import ConfigError, pick
from common.published.keys import Keys

# Required keys of each kind of scaling, and optional ones.
SCALINGS: Mapping[str, tuple[Mapping[str, type], Mapping[str, tuple[type, Any]]]] = {
  'default': ({}, {}),
  'linear': ({'factor': float}, {}),
  'llama3': (
    {
      'factor': float,
      'original_max_position_embeddings': int,
      'low_freq_factor': float,
      'high_freq_factor': float,
    },
    {},
  ),
  'yarn': (
    {'factor': float, 'original_max_position_embeddings': int},
    {
      'attention_factor': (float, None),
      'beta_fast': (float, YARN_TURNS[0]),
      'beta_slow': (float, YARN_TURNS[1]),
      'mscale': (float, None),
      'mscale_all_dim': (float, None),
      'truncate': (bool, True),
    },
  ),
  'proportional': ({}, {'factor': (float, 1.0), 'partial_rotary_factor': (float, 1.0)}),
}
# Kinds that `transformers` has too, and why they are refused.
VARYING = ('dynamic', 'longrope', 'su')


def read_rotary(config: Mapping[str, Any], where: str, partial: bool = False) -> dict[str, Any]:
  """Base and scaling of rotary positions, which old and new configs keep in different places.

  Args:
    config: the values of rope_theta, rope_scaling and rope_parameters.
    where: the file, for messages.
    partial: whether this kind of model may rotate a part of each head.

  Raises:
    ConfigError: for a scaling that is unknown, or lacks a value.
  """
  old, new = config['rope_scaling'], config['rope_parameters']
  if old and new and old != new:
    raise ConfigError(f'{where} has both rope_scaling and rope_parameters, and they differ')
  rotary = new or old
  kind = str(rotary.get('rope_type') or rotary.get('type') or 'default')
  if kind in VARYING:
    raise ConfigError(
      f'{where} has rope_type={kind!r}, whose frequencies change with the length of the sequence; '
      f'this transformer has fixed ones: {", ".join(SCALINGS)}'
    )
  required, optional = pick(SCALINGS, kind, f'rope_type in {where}:')
  fixed = {}
  if partial:
    optional = optional | {'partial_rotary_factor': (float, None)}
  elif 'partial_rotary_factor' not in optional:
    fixed['partial_rotary_factor'] = 1.0  # `transformers` rotates whole heads of these models
  keys = Keys(
    required=required,
    optional={'rope_theta': (float, None), **optional},
    fixed=fixed,
    ignored={'rope_type', 'type', 'original_max_position_embeddings'} - required.keys(),
  )
  values = keys.read(rotary, f'rope_parameters in {where}')
  bases = {base for base in (config['rope_theta'], values['rope_theta']) if base is not None}
  if len(bases) > 1:
    raise ConfigError(f'{where} has two values of rope_theta: {", ".join(map(str, sorted(bases)))}')
  (base,) = bases or {10_000.0}
  made = dict(rotary_base=base, rotary_scaling=_scaling(kind, values))
  if partial:
    fraction = values['partial_rotary_factor'] or config['partial_rotary_factor'] or 1.0
    made['rotary_fraction'] = fraction
  return made


def _scaling(kind: str, values: Mapping[str, Any]) -> tuple:
  """The setting `rotary_scaling`, with values in the order of `positions.rotary_frequencies`."""
  if kind == 'yarn':
    names = ('factor', 'original_max_position_embeddings', 'beta_fast', 'beta_slow')
    magnitude = values['attention_factor'] or _yarn_magnitude(values)
    return (kind, *(values[name] for name in names), magnitude, int(values['truncate']))
  names = {
    'default': (),
    'proportional': ('factor', 'partial_rotary_factor'),
  }.get(kind, SCALINGS[kind][0])
  return (kind, *(values[name] for name in names)) if names else ()


def _yarn_magnitude(values: Mapping[str, Any]) -> float:
  """The factor of cosines and sines, unless the file has it (Peng et al. 2023, equation 22)."""

  def of(scale: float) -> float:
    factor = values['factor']
    return 1.0 if factor <= 1 else 0.1 * scale * math.log(factor) + 1.0

  if values['mscale'] and values['mscale_all_dim']:
    return of(values['mscale']) / of(values['mscale_all_dim'])
  return of(1.0)


def write_rotary(network: Transformer) -> dict[str, Any]:
  """`rope_theta` and `rope_parameters` of a network.

  Raises:
    ConfigError: for a scaling that `transformers` does not have.
  """
  rotary: dict[str, Any] = {'rope_theta': network.rotary_base, 'rope_type': 'default'}
  if network.rotary_scaling:
    kind, *values = network.rotary_scaling
    if kind not in SCALINGS:
      raise ConfigError(
        f'network.rotary_scaling {kind!r} has no equivalent in published weights; known: '
        f'{", ".join(name for name in SCALINGS if name != "default")}'
      )
    if kind == 'llama3':
      values += LLAMA3_TURNS[len(values) - 2 :]
    names = {
      'linear': ('factor',),
      'llama3': tuple(SCALINGS['llama3'][0]),
      'yarn': (
        'factor',
        'original_max_position_embeddings',
        'beta_fast',
        'beta_slow',
        'attention_factor',
        'truncate',
      ),
      'proportional': ('factor', 'partial_rotary_factor'),
    }[kind]
    rotary |= {'rope_type': kind} | dict(zip(names, values, strict=True))
    if kind == 'yarn':
      rotary['truncate'] = bool(rotary['truncate'])
  return {'rope_theta': network.rotary_base, 'rope_parameters': rotary}
