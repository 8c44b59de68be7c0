"""SiT on ImageNet at 256×256: paths from noise to latents, with DiT's networks (Ma et al. 2024).

twofold train --config=configs/papers/sit.py:XL2 --workdir=runs/sit \
    --config.data.source=LATENTS.npz

LATENTS.npz is that of configs/papers/dit.py, which says what it holds.

Reproduces: tables 2 to 5 of the paper (B2 and the variants that begin with B2_), and table 7
(XL2_7M). S2, B2, L2, XL2 and XL2_7M predict the velocity of the linear path; a name such as
B2_gvp_score has another path (linear, gvp, vp) and another target (velocity, score, noise).
Settings: the authors' repository (willisma/SiT: train.py, train_utils.py, transport/) and the
paper.

To expect, not measured here: FID of 50,000 samples after 400,000 steps, without guidance, by the
ODE and by the SDE, whose diffusion coefficient is that of the process, 250 evaluations each:

                    ODE    SDE
  B2                34.8   33.6
  B2_gvp_velocity   34.6   32.9
  B2_vp_velocity    39.8   37.8
  B2_vp_score       43.6
  B2_linear_score          41.0
  B2_gvp_score             37.8

  XL2_7M  7,000,000 steps, with a guidance weight of 1.5: 2.15 by the ODE, 2.06 by the SDE

The config samples by the SDE. The ODE is solved by an adaptive method of Runge and Kutta:
--options=sampler=adaptive,rtol=1e-3,atol=1e-6,steps=2,last=0.0

Unspecified, so at our defaults: how often the validation loss is measured.

What the paper does and this code does not yet:

- It encodes images while it trains, with a new draw of the encoder each time, and decodes samples;
  here latents are read from a file, which is held in memory while it is prepared.
- It trains on all images; here a tenth each is for validation and for testing.
- FID is of the Inception network.
- Time runs from noise to data, and its network is told it so; here the other way.
- The last step of the SDE, from 0.04 to data, is its drift alone; here the clean estimate.
- The weighted score, whose error is that of the velocity (39.1 in table 3); diffusion coefficients
  other than that of the process (table 6).
- Its networks have outputs for a variance, which the loss leaves out; here they have none.
- Guidance covers only the first three of the four channels of a latent; here all of them.
"""

from ml_collections import ConfigDict

from common.config import merge, pick
from configs.diffusion.base import get_base
from configs.papers import dit

PATHS = {'linear': 'rectified_flow', 'gvp': 'gvp', 'vp': 'vp_linear'}
TARGETS = {
  'velocity': dict(prediction=dict(target='velocity')),
  # Both losses are the error in the noise.
  'score': dict(prediction=dict(target='score'), objective=dict(weighting=dict(name='snr'))),
  'noise': dict(prediction=dict(target='eps')),
}
NEAR = 1e-5  # our processes have no loss at time 0 itself


def training_times(path: str, target: str) -> dict[str, float]:
  """The first and the last time of training; the authors' time is one minus ours."""
  if path == 'vp':
    return dict(t_min=1e-5, t_max=1.0)
  # At pure noise, x says nothing about the score, nor its noise about the data.
  return dict(t_min=NEAR, t_max=1.0) if target == 'velocity' else dict(t_min=1e-3, t_max=1 - 1e-3)


def interpolant(path: str, target: str) -> dict[str, dict]:
  """The settings of a path, a key of PATHS, and of a target, a key of TARGETS."""
  process = dict(name=PATHS[path]) | training_times(path, target)
  return merge(dict(process=process), TARGETS[target])


COMMON = merge(
  dict(data=dit.COMMON['data'], optimizer=dit.COMMON['optimizer'], ema=dit.COMMON['ema']),
  dict(
    prediction=dict(scale_input=False, noise='unit_time', variance='fixed_small'),
    objective=dict(times=dict(name='uniform')),
    label_dropout=0.1,
    train=dit.COMMON['train'],
    sampling=dict(
      sampler=dict(name='euler_maruyama'),
      steps=250,
      grid=dict(name='uniform', last=0.04),
      threshold=dict(name='none'),
    ),
    evaluation=dit.COMMON['evaluation'],
  ),
)

LINEAR = interpolant('linear', 'velocity')
VARIANTS = {
  f'{size}2': dict(network=network | dict(patch=2)) for size, network in dit.SIZES.items()
}
VARIANTS |= {name: merge(LINEAR, variant) for name, variant in VARIANTS.items()}
VARIANTS['XL2_7M'] = merge(
  VARIANTS['XL2'], dict(train=dict(steps='7000000'), sampling=dict(guidance=dict(weight=1.5)))
)
VARIANTS |= {
  f'B2_{path}_{target}': merge(
    interpolant(path, target), dict(network=dit.SIZES['B'] | dict(patch=2))
  )
  for path in PATHS
  for target in TARGETS
  if (path, target) != ('linear', 'velocity')
}


def get_config(variant: str = 'XL2') -> ConfigDict:
  """The config of a variant, a key of VARIANTS."""
  return ConfigDict(merge(get_base(), COMMON, pick(VARIANTS, variant, 'variant')))
