"""The parts of a loss together, and the combinations that make no sense."""

from collections.abc import Mapping
from typing import Any, NamedTuple

from common.config import ConfigError, component
from diffusion.model import Model
from diffusion.objectives import TIME_DISTRIBUTIONS, WEIGHTINGS
from diffusion.objectives.times import TimeDistribution
from diffusion.objectives.weightings import Weighting

# Distributions that draw a discrete process's steps with unequal probabilities, uncorrected.
NON_UNIFORM_TIMES = ('log_normal', 'logit_normal', 'terminal')


class Objective(NamedTuple):
  """The parts of a loss.

  Attributes:
    times: the distribution of training times.
    weighting: how much each time counts; None for the exact steps of a discrete process's bound.
    hybrid: weight of these exact steps next to the weighting (L_hybrid of Nichol & Dhariwal 2021);
      they train a learned variance.
    uncertainty: whether the loss is balanced by a learned uncertainty.
    label_dropout: share of the training examples whose class is hidden.
    augmentation: settings of `diffusion.augmentation`.
    classifier: weight of the cross-entropy of the classifier that is trained with the model, or 0.
  """

  times: TimeDistribution
  weighting: Weighting | None
  hybrid: float
  uncertainty: bool
  label_dropout: float
  augmentation: Mapping[str, Any]
  classifier: float


def build_objective(config: Mapping, model: Model) -> Objective:
  """The objective of a config. Raises ConfigError if its parts do not go together."""
  section = config['objective']
  times = component(TIME_DISTRIBUTIONS, section['times'], 'objective.times')
  weighting = component(WEIGHTINGS, section['weighting'], 'objective.weighting')
  # On a discrete process 'vlb' is not the weighting of the continuous limit but the exact steps.
  exact = section['weighting']['name'] == 'vlb' and model.process.steps > 0
  _check(config, model, exact)
  if weighting.over_log_snr and not times.covers_all_times:
    raise ConfigError(
      f'objective.weighting {section["weighting"]["name"]!r} is an integral over the noise levels'
      f" and needs times that cover them, got {section['times']['name']!r}; use 'simple'"
    )
  return Objective(
    times=times,
    weighting=None if exact else weighting,
    hybrid=section['hybrid'] if model.variance == 'learned' and not exact else 0.0,
    uncertainty=section['uncertainty'],
    label_dropout=config['label_dropout'],
    augmentation=config['augmentation'],
    classifier=config['classifier']['weight'] if model.classifier else 0.0,
  )


def _check(config: Mapping, model: Model, exact: bool) -> None:
  section = config['objective']
  weighting, times = section['weighting']['name'], section['times']['name']
  if exact and times in NON_UNIFORM_TIMES:
    raise ConfigError(
      "objective.weighting 'vlb' of a discrete process needs objective.times that are uniform or"
      f" corrected for ('uniform', 'low_discrepancy', 'loss_second_moment'), got {times!r}"
    )
  learned = model.process.learned
  if learned and (weighting != 'vlb' or section['uncertainty']):
    raise ConfigError(
      "process 'learned' is trained by its bound: it needs objective.weighting 'vlb' and"
      f' objective.uncertainty=False, got {weighting!r} and {section["uncertainty"]}'
    )
  # The bound is on the likelihood of the data itself, and an augmented image is other data.
  bounded = exact or learned or model.variance == 'learned'
  if bounded and config['augmentation']['probability']:
    raise ConfigError(
      'augmentation.probability must be 0 when the loss contains the bound (a learned process or'
      " variance, or the weighting 'vlb' of a discrete process), got"
      f' {config["augmentation"]["probability"]}'
    )
