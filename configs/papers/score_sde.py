"""Score SDE on CIFAR-10: VP, sub-VP and VE in continuous time (Song et al. 2021).

twofold prepare_data --dataset=cifar10
twofold train --config=configs/papers/score_sde.py:vp --workdir=runs/score_sde

Reproduces: tables 2 and 3 of the paper, the models trained in continuous time: DDPM++ on the VP and
the sub-VP process, NCSN++ on the VE process, and the deep variants, with twice as many blocks.
Settings: the authors' repository (yang-song/score_sde: configs/, losses.py, models/ncsnpp.py).

To expect, not measured here: FID of 50,000 samples (VE: predictor and corrector) against the
training split, of the checkpoint with the least, saved every 50,000 steps; Inception score; and, of
the last checkpoint, FID by the probability flow and bits/dim of the test split.

               FID     IS      flow   bits/dim
  vp           2.55   9.58    3.93    3.16
  sub_vp       2.61   9.56    3.16    3.02
  ve           2.38   9.83
  vp_deep      2.41   9.68    3.08    3.13
  sub_vp_deep  2.41   9.57    2.92    2.99
  ve_deep      2.20   9.89

Unspecified: how often the validation loss is measured.

What the paper does and this code does not yet:

- FID and Inception score are of the Inception network; `twofold evaluate` names its own features.
- The network of VP and sub-VP is told 999·t; here 1000·t.
- Its last step is one of the solver without noise; here the clean estimate.
- Langevin's step size is by norms that are measured, as a mean over the batch; here by those that
  are expected.
- Noise of VE is around 0 in [0, 1]; here around 0 in [-1, 1], which is a hundredth of it away.
- Its warm-up begins with a rate of 0; here a step has about the rate of the authors' next one.
"""

from ml_collections import ConfigDict

from common.config import merge, pick
from configs.diffusion.base import get_base

DDPMPP = dict(
  name='unet',
  width=128,
  multipliers=(1, 2, 2, 2),
  blocks=4,
  attention=(16,),
  up_attention='last',
  dropout=0.1,
  resample_in_block=True,
  resample_projection=True,
  skip_rescale=True,
)
NCSNPP = merge(
  DDPMPP, dict(embedding='fourier', embedding_width=256, fir=True, progressive_input=True)
)
DEEP = dict(network=dict(blocks=8), train=dict(steps='950000'))

VP = dict(
  process=dict(name='vp_linear', t_min=1e-5),  # β from 0.1 to 20
  network=DDPMPP,
  prediction=dict(noise='time'),
  ema=dict(decay=0.9999),
  sampling=dict(sampler=dict(name='euler_maruyama'), grid=dict(last=1e-3)),
)
SUB_VP = merge(VP, dict(process=dict(name='sub_vp', t_min=1e-5)))

# The authors' images for VE are in [0, 1], with noise from 0.01 to 50. The same noise is twice as
# large for images in [-1, 1], which is also what their network is given.
#
# They add up the squared errors of an image, times 1/2, and average over the batch; here they are
# averaged over the values as well. So their gradient is VALUES/2 times ours, and the bound on its
# norm and Adam's epsilon are smaller here by that factor. The step is then the same.
VALUES = 32 * 32 * 3
VE = dict(
  process=dict(name='ve', sigma_min=2 * 0.01, sigma_max=2 * 50.0, t_min=1e-5),
  network=NCSNPP,
  prediction=dict(noise='log_sigma'),
  optimizer=dict(clip=1.0 / (VALUES / 2), eps=1e-8 / (VALUES / 2)),
  ema=dict(decay=0.999),
  sampling=dict(sampler=dict(name='predictor_corrector', predictor='reverse_diffusion', snr=0.16)),
)

COMMON = dict(
  seed=42,
  data=dict(name='cifar10', train_to='test', batch_size=128, flip=True),
  conditional=False,
  # The network's output is the noise, up to its sign and its scale in the score.
  prediction=dict(target='eps', scale_input=False),
  objective=dict(times=dict(name='uniform')),
  optimizer=dict(
    name='adam', learning_rate=2e-4, schedule='constant', warmup='5000', b2=0.999, clip=1.0
  ),
  ema=dict(warmup=False),
  train=dict(
    steps='1300000',
    steps_per_call=10,
    log_every='100',
    evaluate_every='10000',
    sample_every='50000',
    checkpoint_every='50000',
    keep=26,  # FID is that of the best one
  ),
  sampling=dict(steps=1000, grid=dict(name='uniform'), threshold=dict(name='none')),
  likelihood=dict(name='flow'),
  evaluation=dict(num_samples=50_000, reference='all'),
)

VARIANTS = {
  'vp': VP,
  'sub_vp': SUB_VP,
  've': VE,
  'vp_deep': merge(VP, DEEP),
  'sub_vp_deep': merge(SUB_VP, DEEP),
  've_deep': merge(VE, DEEP),
}


def get_config(variant: str = 'vp') -> ConfigDict:
  """The config of a variant, a key of VARIANTS."""
  return ConfigDict(merge(get_base(), COMMON, pick(VARIANTS, variant, 'variant')))
