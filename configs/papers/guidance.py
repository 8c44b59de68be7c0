"""Guidance on ImageNet at 64×64: classifier-free (Ho & Salimans 2022), and ADM's classifier.

twofold prepare_data --dataset=imagenet --source=IMAGENET/ --image_size=64
twofold train --config=configs/papers/guidance.py:p10 --workdir=runs/guidance
twofold evaluate --workdir=runs/guidance --options=guidance=1.1
twofold train --config=configs/papers/guidance.py:adm --workdir=runs/adm
twofold train --config=configs/papers/guidance.py:adm_classifier --workdir=runs/adm_classifier
twofold evaluate --workdir=runs/adm --classifier_from=runs/adm_classifier --options=classifier=1.0

IMAGENET holds the images, train/CLASS/NAME and val/CLASS/NAME; they are cut to their central square
and resized as in ADM's code.

Reproduces: table 1 of Ho & Salimans 2022, classifier-free guidance: p10, p20 and p50 hide the class
of 10, 20 and 50 % of the training images. And ADM, the model of Dhariwal & Nichol 2021, whose
network and hyper-parameters these are; 296M parameters. Its samples are guided by adm_classifier,
which is trained apart, on noisy images; 65M parameters. Settings: section 4 of the paper; tables 11
(adm), 12 (adm_classifier) and 14 of ADM's paper, and its repository (openai/guided-diffusion:
README.md, fp16_util.py, script_util.py, scripts/classifier_train.py). adm and adm_classifier train
in float16 with a scaled loss, as appendix I of their paper says of all its models; the flags of
README.md for the classifier of 128×128 do not. Its classifiers have no average of the parameters in
the code, and their rate falls to 0, as by those flags.

To expect, not measured here: FID and Inception score of 50,000 samples after 400,000 steps. The
paper's w = 0 is no guidance; here the weight is 1 + w.

  w      p10             p20             p50
  0      1.80 / 53.71    1.80 / 52.9     2.21 / 47.61
  0.1    1.55 / 66.11    1.62 / 64.58    1.91 / 56.1
  0.2    2.04 / 78.91    2.10 / 76.99    2.08 / 65.6
  0.3    3.03 / 92.8     2.93 / 88.64    2.65 / 74.92
  1      12.6 / 170.1    11.21 / 158.29  9.13 / 131.1
  4      26.22 / 260.2   23.84 / 248.97  21.48 / 225.1

  adm    FID 2.07, precision 0.74, recall 0.63, of 250 steps, guided by adm_classifier at scale 1

Unspecified, so at our defaults or our choice: the seeds; for classifier-free guidance, whether
images are mirrored (here a random half of them, as in ADM's code) and the precision (here float32);
and how often it is logged, evaluated and saved.

What the papers do and this code does not yet:

- FID, Inception score, precision and recall are of the Inception network.
- ADM's classifier is trained on random crops of the images; here on the same ones as the model.
- ADM's stochastic sampler moves the mean of a step, whose clean image is clipped before, by the
  scale times its variance times the gradient (algorithm 1); here every sampler is given a moved
  noise (algorithm 2), and the moved clean image is clipped.
- Biases begin as small random numbers there, and at 0 here.
- Distances here are over pixels (evaluation.extractor).
"""

import math

from ml_collections import ConfigDict

from common.config import merge, pick
from configs.classifier.base import get_base as get_classifier_base
from configs.diffusion.base import get_base

NETWORK = dict(  # 296M parameters
  name='unet',
  width=192,
  multipliers=(1, 2, 3, 4),
  blocks=3,
  attention=(32, 16, 8),
  head_width=64,
  dropout=0.1,
  embedding='adm',
  scale_shift=True,
  resample_in_block=True,
  initialisation='adm',
  norm_epsilon=1e-5,
)

CLASSIFIER_FREE = dict(
  process=dict(name='shifted', log_snr_max=20.0, log_snr_min=-20.0, t_min=1e-7),
  prediction=dict(noise='time', variance='fixed_small'),
  train=dict(steps='400000'),
  sampling=dict(sampler=dict(interpolation=0.3), steps=256, grid=dict(name='uniform')),
)
ADM = dict(
  precision='float16',
  process=dict(name='ddpm', schedule='cosine', steps=1000),
  # One step's cost in bits is added to the squared error, as in configs/papers/dit.py.
  prediction=dict(noise='time', variance='learned'),
  objective=dict(hybrid=1 / (1000 * math.log(2))),
  label_dropout=0.0,
  train=dict(steps='540000', loss_scale=dict(initial=20.0, growth=1e-3)),
  sampling=dict(steps=250, grid=dict(name='respaced')),
)

COMMON = dict(
  data=dict(name='imagenet', image_size=64, train_to='test', batch_size=2048, flip=True),
  network=NETWORK,
  prediction=dict(target='eps', scale_input=False),
  objective=dict(times=dict(name='uniform')),
  optimizer=dict(
    name='adamw',
    learning_rate=3e-4,
    schedule='constant',
    warmup='0',
    b2=0.999,
    weight_decay=0.0,
    clip=0.0,
  ),
  ema=dict(decay=0.9999, warmup=False),
  train=dict(
    steps_per_call=1,
    log_every='100',
    evaluate_every='10000',
    sample_every='50000',
    checkpoint_every='10000',
  ),
  sampling=dict(sampler=dict(name='ancestral')),
  evaluation=dict(num_samples=50_000, reference='all', extractor='pixels'),
)

# The classifier that guides ADM; 65M parameters.
ADM_CLASSIFIER = dict(
  family='classifier',
  precision='float16',
  data=dict(name='imagenet', image_size=64, train_to='test', batch_size=1024, flip=True),
  process=ADM['process'],
  network=dict(
    name='unet_encoder',
    width=128,
    multipliers=(1, 2, 3, 4),
    blocks=4,
    attention=(32, 16, 8),
    head_width=64,
    embedding='adm',
    scale_shift=True,
    resample_in_block=True,
    initialisation='adm',
    norm_epsilon=1e-5,
  ),
  prediction=dict(noise='time', scale_input=False),
  objective=dict(times=dict(name='uniform')),
  optimizer=dict(
    name='adamw',
    learning_rate=6e-4,
    schedule='trapezoid',  # linear to 0 over the whole run
    cooldown='100%',
    warmup='0',
    b2=0.999,
    weight_decay=0.2,
    no_decay='',  # all parameters are decayed
    clip=0.0,
  ),
  ema=dict(decay=0.0, warmup=False),  # none
  train=dict(
    steps='300000',
    loss_scale=dict(initial=20.0, growth=1e-3),
    steps_per_call=1,
    log_every='100',
    evaluate_every='10000',
    checkpoint_every='10000',
  ),
)

VARIANTS = {
  'p10': merge(CLASSIFIER_FREE, dict(label_dropout=0.1)),
  'p20': merge(CLASSIFIER_FREE, dict(label_dropout=0.2)),
  'p50': merge(CLASSIFIER_FREE, dict(label_dropout=0.5)),
  'adm': ADM,
  'adm_classifier': ADM_CLASSIFIER,
}


def get_config(variant: str = 'p10') -> ConfigDict:
  """The config of a variant, a key of VARIANTS."""
  changes = pick(VARIANTS, variant, 'variant')
  if changes is ADM_CLASSIFIER:
    return ConfigDict(merge(get_classifier_base(), changes))
  return ConfigDict(merge(get_base(), COMMON, changes))
