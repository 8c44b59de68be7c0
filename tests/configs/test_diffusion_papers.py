"""The diffusion papers' configs against their papers: sizes, learning rates, settings, losses."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from common.method import Context
from common.training.averages import make_averaging
from experiments import families
from tests.cases import mostly_slow
from tests.configs.test_configs import spec_of
from tests.configs.test_papers import (
  ADAM,
  EPS,
  assert_learning_rates,
  assert_settings,
  built,
  lengths,
  size_of,
)
from tests.diffusion.networks.small import quick_jit


def unet_size(channels, width, multipliers, blocks, attention=(), last=False, big=False, **more):
  """Parameters of a U-Net of images of 3 channels, without classes, counted layer by layer.

  Args:
    channels: of the output.
    width, multipliers, blocks: see `UNet`.
    attention: levels with attention.
    last: on the way up only the last block of a level has it.
    big: residual blocks change the resolution.
    **more: `scale_shift`; `project`: blocks that change the resolution project their skips;
      `shrunk`: the input enters every level; `embedding`: numbers of the noise embedding; `inputs`:
      channels.
  """
  conv = lambda inputs, outputs, size=3: size**2 * inputs * outputs + outputs
  emb, number = 4 * width, 2 if more.get('scale_shift') else 1

  def res(inputs, outputs, project=False):
    size = 2 * inputs + conv(inputs, outputs) + conv(emb, number * outputs, 1)
    size += 2 * outputs + conv(outputs, outputs)
    return size + (conv(inputs, outputs, 1) if project or inputs != outputs else 0)

  attend = lambda c: 2 * c + 4 * conv(c, c, 1)
  resize = lambda c: res(c, c, more.get('project')) if big else conv(c, c)
  total = conv(more.get('embedding', width), emb, 1) + conv(emb, emb, 1)
  total += conv(more.get('inputs', 3), width)
  skips, h, shrunk = [width], width, 3
  for level, multiplier in enumerate(multipliers):
    for _ in range(blocks):
      total += res(h, multiplier * width)
      h = multiplier * width
      total += attend(h) if level in attention else 0
      skips.append(h)
    if level < len(multipliers) - 1:
      total += resize(h) + (conv(shrunk, h) if more.get('shrunk') else 0)
      shrunk = h
      skips.append(h)
  total += 2 * res(h, h) + attend(h)
  for level, multiplier in reversed(list(enumerate(multipliers))):
    for block in range(blocks + 1):
      total += res(h + skips.pop(), multiplier * width)
      h = multiplier * width
      total += attend(h) if level in attention and (not last or block == blocks) else 0
    total += resize(h) if level else 0
  return total + 2 * h + conv(h, channels)


DDPMPP = dict(
  width=128, multipliers=(1, 2, 2, 2), attention=(1,), last=True, big=True, project=True
)
NCSNPP = DDPMPP | dict(embedding=256, shrunk=True)
IDDPM = dict(width=128, multipliers=(1, 2, 2, 2), blocks=3, attention=(1, 2), scale_shift=True)
TEACHER = dict(width=256, multipliers=(1, 1, 1), blocks=3, attention=(1, 2), big=True)
ADM = dict(width=192, multipliers=(1, 2, 3, 4), blocks=3, attention=(1, 2, 3), big=True)
VDM = dict(multipliers=(1,), blocks=32, inputs=3 + 2 * 2 * 3)
SCHEDULE = 2 + 1 + 3 * 1024  # VDM's two ends, a line, and a hidden layer


SIZES = [
  # The authors' files of weights say 50M.
  ('improved_ddpm:simple_linear', unet_size(3, **IDDPM)),
  ('improved_ddpm:hybrid_cosine', unet_size(6, **IDDPM)),
  ('score_sde:vp', unet_size(3, blocks=4, **DDPMPP)),
  ('score_sde:ve', unet_size(3, blocks=4, **NCSNPP)),
  ('score_sde:ve_deep', unet_size(3, blocks=8, **NCSNPP)),
  ('progressive_distillation:x_truncated_snr', unet_size(3, scale_shift=True, **TEACHER)),
  # 296M (Dhariwal & Nichol 2021, table 11), with the embeddings of 1,000 classes and of none.
  ('guidance:adm', unet_size(6, scale_shift=True, **ADM) + 1001 * 4 * 192),
  ('guidance:p10', unet_size(3, scale_shift=True, **ADM) + 1001 * 4 * 192),
  ('vdm:cifar10', unet_size(3, width=128, **VDM) + SCHEDULE),
  # Of DiT's B/2 without the outputs of the variance, 16 a token.
  ('sit:B2', 130_315_808 - 16 * (768 + 1)),
]
QUICK = ('improved_ddpm:simple_linear', 'score_sde:ve', 'guidance:adm', 'vdm:cifar10', 'sit:B2')


@pytest.mark.parametrize(
  ('variant', 'expected'), mostly_slow(SIZES, [case for case in SIZES if case[0] in QUICK])
)
def test_numbers_of_parameters(variant, expected):
  assert size_of(built(f'papers/{variant}')[3]) == expected


@pytest.mark.parametrize(
  ('variant', 'steps', 'rates'),
  [
    ('improved_ddpm:vlb_cosine', 500_000, {0: 1e-4, 499_999: 1e-4}),
    ('score_sde:ve', 1_300_000, {0: 2e-4 / 5000, 2499: 1e-4, 5000: 2e-4, 1_299_999: 2e-4}),
    ('score_sde:vp_deep', 950_000, {949_999: 2e-4}),
    ('progressive_distillation:v_snr', 800_000, {499: 1e-4, 1000: 2e-4, 799_999: 2e-4}),
    ('guidance:p10', 400_000, {0: 3e-4, 399_999: 3e-4}),
    ('guidance:adm', 540_000, {0: 3e-4, 539_999: 3e-4}),
    ('guidance:adm_classifier', 300_000, {0: 6e-4, 150_000: 3e-4, 299_999: 2e-9}),
    ('sit:XL2', 400_000, {0: 1e-4, 399_999: 1e-4}),
    ('vdm:cifar10', 10_000_000, {49: 1e-4, 100: 2e-4, 9_999_999: 2e-4}),
  ],
)
def test_learning_rates(variant, steps, rates):
  assert_learning_rates(variant, steps, rates)


@pytest.mark.parametrize(
  ('variant', 'decay'),
  [
    ('improved_ddpm:hybrid_cosine', 0.9999),
    ('score_sde:vp', 0.9999),
    ('score_sde:ve', 0.999),
    ('progressive_distillation:v_snr', 0.9999),
    ('guidance:p10', 0.9999),
    ('sit:XL2', 0.9999),
    ('vdm:cifar10', 0.9999),
  ],
)
def test_averages_are_from_the_first_weights(variant, decay):
  config, total, (_, epoch, size) = lengths(f'papers/{variant}')
  averaging = make_averaging(config['ema'], epoch, total, size)
  assert float(averaging.decay_at(jnp.asarray(0))) == pytest.approx(decay)


# What the papers set and a default of ours could silently change.
PUBLISHED = {
  'improved_ddpm:hybrid_cosine': EPS | ADAM | {
    'precision': 'float32',
    'data.batch_size': 128, 'data.flip': False, 'network.dropout': 0.3, 'network.embedding': 'adm',
    'process.schedule': 'cosine', 'process.steps': 4000, 'prediction.variance': 'learned',
    'objective.times.name': 'uniform', 'objective.weighting.name': 'simple', 'conditional': False,
    'optimizer.name': 'adamw', 'optimizer.clip': 0.0, 'optimizer.eps': 1e-8,
    'sampling.steps': 4000, 'sampling.threshold.name': 'static', 'prediction.noise': 'time',
  },
  'improved_ddpm:vlb_cosine': {
    'objective.weighting.name': 'vlb', 'objective.times.name': 'loss_second_moment',
    'objective.times.buckets': 4000, 'objective.times.history': 10.0,
    'objective.times.floor': 0.001,
  },
  'improved_ddpm:simple_linear': {
    'process.schedule': 'linear', 'process.scaled': True, 'prediction.variance': 'fixed_large',
  },
  'score_sde:vp': ADAM | {
    'data.batch_size': 128, 'data.flip': True, 'network.dropout': 0.1, 'network.blocks': 4,
    'process.beta_min': 0.1, 'process.beta_max': 20.0, 'process.t_min': 1e-5, 'seed': 42,
    'prediction.target': 'eps', 'prediction.scale_input': False, 'conditional': False,
    'objective.weighting.name': 'simple', 'objective.times.name': 'uniform',
    'optimizer.name': 'adam', 'optimizer.eps': 1e-8, 'optimizer.clip': 1.0,
    'sampling.sampler.name': 'euler_maruyama', 'sampling.steps': 1000, 'sampling.grid.last': 1e-3,
    'likelihood.name': 'flow', 'likelihood.rtol': 1e-5, 'likelihood.atol': 1e-5,
  },
  'score_sde:sub_vp': {'process.name': 'sub_vp', 'process.t_min': 1e-5, 'network.fir': False},
  'score_sde:ve': {
    'network.fir': True, 'network.progressive_input': True, 'network.skip_rescale': True,
    'sampling.sampler.name': 'predictor_corrector', 'sampling.sampler.snr': 0.16,
    'sampling.sampler.corrections': 1, 'sampling.sampler.predictor': 'reverse_diffusion',
    'sampling.grid.last': 0.0, 'process.t_min': 1e-5,
  },
  'score_sde:ve_deep': {'network.blocks': 8, 'network.fir': True},
  'progressive_distillation:x_truncated_snr': {
    'data.batch_size': 128, 'data.flip': True, 'network.dropout': 0.2, 'network.head_width': 0,
    'prediction.target': 'x0', 'objective.weighting.name': 'truncated_snr', 'conditional': False,
    'process.log_snr_max': 20.0, 'process.log_snr_min': -20.0, 'process.resolution': 64,
    'optimizer.weight_decay': 0.001, 'optimizer.clip': 1.0, 'optimizer.b2': 0.999,
    'optimizer.no_decay': '', 'sampling.sampler.name': 'ddim', 'sampling.sampler.eta': 0.0,
    'sampling.steps': 1024, 'prediction.variance': 'fixed_large', 'seed': 0,
  },
  'guidance:p20': ADAM | {
    'label_dropout': 0.2, 'conditional': True, 'data.batch_size': 2048, 'data.image_size': 64,
    'data.name': 'imagenet', 'data.train_to': 'test', 'data.flip': True,
    'prediction.target': 'eps', 'sampling.steps': 256, 'sampling.sampler.interpolation': 0.3,
    'sampling.sampler.name': 'ancestral', 'optimizer.clip': 0.0, 'network.dropout': 0.1,
    'process.log_snr_max': 20.0, 'process.log_snr_min': -20.0,
  },
  'guidance:adm': EPS | ADAM | {
    'process.schedule': 'cosine', 'process.steps': 1000, 'prediction.variance': 'learned',
    'label_dropout': 0.0, 'sampling.steps': 250, 'precision': 'float16',
    'train.loss_scale.initial': 20.0, 'train.loss_scale.growth': 1e-3,
  },
  'guidance:adm_classifier': {
    'family': 'classifier', 'data.batch_size': 1024, 'data.image_size': 64, 'data.flip': True,
    'process.name': 'ddpm', 'process.schedule': 'cosine', 'process.steps': 1000,
    'prediction.noise': 'time', 'prediction.scale_input': False, 'network.pool': 'attention',
    'network.dropout': 0.0, 'objective.times.name': 'uniform', 'optimizer.name': 'adamw',
    'optimizer.b1': 0.9, 'optimizer.b2': 0.999, 'optimizer.weight_decay': 0.2,
    'optimizer.no_decay': '', 'optimizer.clip': 0.0, 'ema.decay': 0.0, 'precision': 'float16',
  },
  'sit:XL2': ADAM | {
    'data.batch_size': 256, 'label_dropout': 0.1, 'conditional': True, 'optimizer.name': 'adamw',
    'optimizer.clip': 0.0, 'prediction.target': 'velocity', 'process.name': 'rectified_flow',
    'objective.weighting.name': 'simple', 'objective.times.name': 'uniform', 'seed': 0,
    'sampling.sampler.name': 'euler_maruyama', 'sampling.steps': 250, 'sampling.grid.last': 0.04,
    'network.patch': 2, 'sampling.threshold.name': 'none',
  },
  'sit:B2_gvp_score': {
    'process.name': 'gvp', 'process.t_min': 1e-3, 'process.t_max': 0.999,
    'prediction.target': 'score', 'objective.weighting.name': 'snr',
  },
  'sit:B2_vp_noise': {
    'process.name': 'vp_linear', 'process.t_min': 1e-5, 'process.t_max': 1.0,
    'prediction.target': 'eps', 'objective.weighting.name': 'simple',
  },
  'vdm:cifar10': {
    'data.batch_size': 128, 'data.flip': False, 'network.dropout': 0.1, 'network.blocks': 32,
    'process.log_snr_max': 13.3, 'process.log_snr_min': -5.0, 'objective.weighting.name': 'vlb',
    'objective.times.name': 'low_discrepancy', 'optimizer.name': 'adamw', 'optimizer.b2': 0.99,
    'optimizer.weight_decay': 0.01, 'optimizer.eps': 1e-8, 'optimizer.clip': 0.0, 'seed': 1,
  },
  'vdm:augmented': {'data.batch_size': 1024, 'network.width': 256, 'network.dropout': 0.05},
}  # fmt: skip


@pytest.mark.parametrize('variant', PUBLISHED)
def test_settings_are_the_published_ones(variant):
  assert_settings(variant, PUBLISHED[variant])


def model_of(variant):
  config = families.load_config(f'papers/{variant}', {})
  return families.build(config, spec_of(config['data'])).model


VE_TIMES = np.array([1e-5, 0.25, 0.5, 1.0])


def test_ve_of_images_in_one_unit_is_that_of_images_in_two():
  """Song et al. 2021: σ of images in [0, 1] from 0.01 to 50, and log σ for the network."""
  config, model = families.load_config('papers/score_sde:ve', {}), model_of('score_sde:ve')
  process = model.process
  t = jnp.asarray(VE_TIMES, jnp.float32)
  sigma = 0.01 * 5000**VE_TIMES
  np.testing.assert_allclose(process.sigma(t), 2 * sigma, rtol=1e-5)
  told = model.noise_conditioning(process, t)
  np.testing.assert_allclose(told, 1000 * np.log(sigma), rtol=1e-4)
  assert process.prior_std == pytest.approx(100)
  # Half the sum over the values of an image is their mean times this number.
  assert config['optimizer']['clip'] * 32 * 32 * 3 / 2 == pytest.approx(1.0)
  assert config['optimizer']['eps'] * 32 * 32 * 3 / 2 == pytest.approx(1e-8)


def test_the_teacher_is_told_the_inverse_of_its_schedule():
  """Salimans & Ho 2022, code: 1000·(2/π)·arctan(exp(−λ/2)), λ between 20 and −20."""
  model = model_of('progressive_distillation:x_truncated_snr')
  t = jnp.linspace(1e-4, 1, 50)
  told = 1000 * 2 / np.pi * np.arctan(np.exp(-0.5 * np.asarray(model.process.log_snr(t))))
  np.testing.assert_allclose(model.noise_conditioning(model.process, t), told, atol=0.05)
  ends = np.asarray(model.process.log_snr(jnp.asarray([model.process.t_min, 1.0])))
  np.testing.assert_allclose(ends, [20, -20], atol=0.01)


def test_sit_is_told_the_time_from_0_to_1():
  model = model_of('sit:B2')
  t = jnp.linspace(0, 1, 5)
  np.testing.assert_allclose(model.noise_conditioning(model.process, t), t, rtol=1e-6)


# A network whose output is zero: the loss of noise is the variance of the noise, that of v and of
# the velocity of images of ±1 are α² + σ² and 1 + 1. With the SNR as weight, the score's is that of
# the noise. EDM's preconditioned target has variance 1 for images of EDM's σ_data, ±0.5.
SMALL_UNET = {'network.width': 16, 'network.blocks': 1, 'network.multipliers': (1,)}
SMALL_UNET |= {'network.attention': (), 'network.head_width': 0}
SMALL_DIT = {'network.width': 16, 'network.depth': 1, 'network.heads': 2}
SMALL_VDM = {'network.width': 16, 'network.blocks': 1}
SIZE = {'edm:cond_vp': 0.5}  # |x| of the images, if not 1
LOSSES = [
  ('ddpm:cifar10', SMALL_UNET, 1.0),
  ('edm:cond_vp', SMALL_UNET | {'augmentation.probability': 0.0}, 1.0),
  ('guidance:p10', SMALL_UNET, 1.0),
  ('score_sde:ve', SMALL_UNET, 1.0),
  ('score_sde:vp', SMALL_UNET, 1.0),
  ('score_sde:sub_vp', SMALL_UNET, 1.0),
  ('improved_ddpm:simple_cosine', SMALL_UNET, 1.0),
  ('progressive_distillation:v_snr_plus_one', SMALL_UNET, 1.0),
  ('progressive_distillation:eps_snr', SMALL_UNET, 1.0),
  ('sit:B2', SMALL_DIT, 2.0),
  ('sit:B2_gvp_score', SMALL_DIT, 1.0),
  ('sit:B2_vp_noise', SMALL_DIT, 1.0),
]


@pytest.mark.parametrize(('variant', 'small', 'expected'), mostly_slow(LOSSES, [LOSSES[9]]))
def test_losses_at_initialisation(variant, small, expected):
  config = families.load_config(f'papers/{variant}', small)
  spec = spec_of(config['data'])
  method = families.build(config, spec)
  assert initial_loss(method, spec, SIZE.get(variant, 1.0)) == pytest.approx(expected, rel=0.03)


def initial_loss(method, spec, size=1.0, number=16):
  """The loss of images of ±size with the initial parameters."""
  signs = np.where(np.random.default_rng(0).random((number, *spec.shape)) < 0.5, -1, 1)
  x = np.round(127.5 * (size * signs + 1)) if spec.levels else size * signs
  batch = {'x': jnp.asarray(x, jnp.uint8 if spec.levels else jnp.float32)}
  batch['label'] = jnp.zeros(number, jnp.int32)
  params, memory = quick_jit(method.init)(jax.random.key(0), batch)
  context = Context(jnp.zeros((), jnp.int32), params, True, jnp.arange(number), number)
  loss = quick_jit(lambda params: method.loss(params, memory, batch, jax.random.key(1), context)[0])
  return float(loss(params))


@pytest.mark.slow
def test_the_loss_of_vdm_at_initialisation():
  """The network adds its input: the first estimate of the noise is z = α·x + σ·ε itself.

  The bound in nats per dimension is then ½∫(α²x² + (1 - σ)²) over -log-SNR, and the prior's KL;
  the images' own cost given their least noisy version is 0, because x = ±1 is at the ends.
  """
  config = families.load_config('papers/vdm:cifar10', SMALL_VDM)
  spec = spec_of(config['data'])
  gamma = np.linspace(-13.3, 5, 10_001)
  variance = 1 / (1 + np.exp(-gamma))
  integrand = (1 - variance) + (1 - np.sqrt(variance)) ** 2
  prior = 0.5 * (1 - variance[-1] + variance[-1] - 1 - np.log(variance[-1]))
  expected = 0.5 * np.trapezoid(integrand, gamma) + prior
  loss = initial_loss(families.build(config, spec), spec, number=256)
  assert loss == pytest.approx(expected, rel=0.01)


@pytest.mark.slow
def test_the_loss_of_dit_at_initialisation():
  """1 for noise that is estimated as 0; and the cost in bits of one step of the bound.

  A step's variance is the geometric mean of β and β̃ at first, and its mean is off by
  β/√(α(1 - ᾱ)) in each dimension.
  """
  config = families.load_config('papers/dit:XL2', SMALL_DIT)
  spec = spec_of(config['data'])
  beta = np.linspace(1e-4, 0.02, 1000)
  kept = np.cumprod(1 - beta)
  exact = beta[1:] * (1 - kept[:-1]) / (1 - kept[1:])
  ours = np.sqrt(beta[1:] * exact)
  gap = beta[1:] ** 2 / ((1 - beta[1:]) * (1 - kept[1:]))
  cost = 0.5 * (np.log(ours / exact) + (exact + gap) / ours - 1)
  expected = 1 + cost.mean() / np.log(2)
  loss = initial_loss(families.build(config, spec), spec, number=1024)
  assert cost.mean() > 0.005 and loss == pytest.approx(expected, rel=0.003)


def test_the_bounds_of_improved_ddpm_and_adm_are_in_bits():
  """L_simple + L_vlb/1000, L_vlb a sum over T steps; and one step's, of 1,000."""
  for variant in ('improved_ddpm:hybrid_cosine', 'guidance:adm'):
    objective = families.load_config(f'papers/{variant}', {})['objective']
    assert objective['hybrid'] * 1000 == pytest.approx(1 / math.log(2))
  # Adam's steps are the same for L/ln 2 with 1e-8 as for L with 1e-8·ln 2.
  vlb = families.load_config('papers/improved_ddpm:vlb_cosine', {})
  assert vlb['optimizer']['eps'] == pytest.approx(1e-8 * math.log(2))
