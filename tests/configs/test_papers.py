"""The papers' configs against their papers: sizes, operations, learning rates and settings."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from common import flops
from common.config import flatten
from common.method import Context
from common.training.averages import make_averaging
from common.training.optimizers import decay_mask, make_lr_schedule
from common.training.schedule import make_schedule
from configs.ablations.diffusion import dit as dit_blocks
from configs.papers import dit
from experiments import families
from tests.autoregressive.networks.test_pixelcnn import parameters_of_pp
from tests.configs.test_configs import spec_of

DITS = [f'papers/dit:{size}{patch}' for size in dit.SIZES for patch in dit.PATCHES]


@functools.cache
def built(variant, block=None):
  """(config, spec, method, shapes of the parameters) of a variant, perhaps with another block."""
  config = families.load_config(variant, {'network.block': block} if block else {})
  spec = spec_of(config['data'])
  method = families.build(config, spec)
  params, _ = jax.eval_shape(method.init, jax.random.key(0), spec.batch_struct(1))
  return config, spec, method, params


def size_of(params):
  return sum(leaf.size for leaf in jax.tree.leaves(params))


def nbeats_size(lookback, horizon):
  """30 blocks of 4 layers of 512, and linear maps to the look-back and to the horizon."""
  layers = (lookback + 3 * 512 + 4) * 512
  return 30 * (layers + (512 + 1) * (lookback + horizon))


def pp_size(width):
  """As published, but with a linear map of pixels, starts of ten classes and none, and one map."""
  return parameters_of_pp(width, width) + (3 + 1 + 11 + 100) * width


def operations(function, *arguments):
  """Operations of matrix products and convolutions in one call."""
  return flops.count(jax.jit(function).trace(*arguments).jaxpr.jaxpr)


@pytest.mark.parametrize(
  ('variant', 'expected'),
  [
    ('ddpm:cifar10', 35_746_307),  # 35.7M (Ho et al. 2020, appendix B)
    ('edm:uncond_vp', 55_733_891),  # 55.7M (Karras et al. 2022, appendix F.1)
    # Ten classes and a bias, for each of the 128 numbers of the noise embedding.
    ('edm:cond_vp', 55_733_891 + (10 + 1) * 128),
    # 12 blocks of 12·d² and two norms, a last norm, 1,024 positions and 50,304 tokens, d = 768.
    ('nanogpt:gpt2', 12 * (12 * 768**2 + 2 * 768) + 768 + (1024 + 50_304) * 768),
    ('nanogpt:shakespeare_char', 6 * (12 * 384**2 + 2 * 384) + 384 + (256 + 65) * 384),
    ('nanogpt:shakespeare_char_cpu', 4 * (12 * 128**2 + 2 * 128) + 128 + (64 + 65) * 128),
    # 32 blocks of 4 attention matrices, 3 of the gated layer and 2 norms; a norm; two tables.
    # Two convolutions for each block, with a bias and a length; keys or symbols in and out.
    ('tcn:jsb', 4 * (3 * 150 * 150 + 2 * 150) + 89 * 150 + 151 * 88),
    ('tcn:nottingham', 8 * (6 * 150 * 150 + 2 * 150) + 89 * 150 + 151 * 88),
    ('tcn:copy_1000', 16 * (8 * 10 * 10 + 2 * 10) + 2 * 10 * 10),
    ('tcn:permuted_mnist', 16 * (7 * 25 * 25 + 2 * 25) + 2 * 266 * 25),
    # Weights, values and four covariates in, two numbers out, and starts of two classes and none.
    ('deepar:electricity', 3 * 4 * (2 * 40 * 40 + 40) + (1 + 1 + 4) * 40 + 2 * 40 + 3 * 40),
    # The data of the tests have a horizon of 18 steps.
    ('nbeats:m3_yearly', nbeats_size(12, 18)),
    # The parts of a shared block for each of trend (3 powers) and season (18 waves).
    (
      'nbeats:m3_yearly_interpretable',
      (13 * 256 + 3 * 257 * 256 + 2 * 257 * 3) + (13 * 2048 + 3 * 2049 * 2048 + 2 * 2049 * 18),
    ),
    pytest.param('pixelcnn_pp:cifar10', pp_size(160), marks=pytest.mark.slow),
    ('llama2:7B', 32 * (4 * 4096**2 + 3 * 4096 * 11_008 + 2 * 4096) + 4096 + 2 * 32_000 * 4096),
  ],
)
def test_numbers_of_parameters(variant, expected):
  assert size_of(built(f'papers/{variant}')[3]) == expected


def test_the_closed_forms_are_the_published_numbers():
  gpt2, llama = (size_of(built(f'papers/{name}')[3]) for name in ('nanogpt:gpt2', 'llama2:7B'))
  assert gpt2 - (50_304 - 50_257) * 768 == 124_337_664
  assert llama == 6_738_415_616


# Peebles & Xie 2022, table 4: Gflops, which are billions of multiplications, and millions of
# parameters.
TABLE_4 = {
  'S8': (0.36, 33), 'S4': (1.41, 33), 'S2': (6.06, 33),
  'B8': (1.42, 131), 'B4': (5.56, 130), 'B2': (23.01, 130),
  'L8': (5.01, 459), 'L4': (19.70, 458), 'L2': (80.71, 458),
  'XL8': (7.39, 676), 'XL4': (29.05, 675), 'XL2': (118.64, 675),
}  # fmt: skip


def multiplications_of(method, spec, params):
  """Billions of multiplications of a class-conditional network's estimate of one image."""
  x, t = (jax.ShapeDtypeStruct(shape, jnp.float32) for shape in ((1, *spec.shape), (1,)))
  label = jax.ShapeDtypeStruct((1,), jnp.int32)
  return operations(method.model.estimate, params, x, t, label) / 2e9


@pytest.mark.parametrize('variant', DITS)
def test_dits_have_the_operations_and_parameters_of_the_paper(variant):
  """Within the paper's rounding or 0.03 %: it seems to count the elements of norms too."""
  _, spec, method, params = built(variant)
  multiplications, millions = TABLE_4[variant.partition(':')[2]]
  assert round(size_of(params) / 1e6) == millions
  counted = multiplications_of(method, spec, params)
  assert counted == pytest.approx(multiplications, rel=3e-4, abs=0.0055)


@pytest.mark.parametrize('name', dit_blocks.BLOCKS)
def test_blocks_of_dit_have_the_operations_and_parameters_of_the_paper(name):
  """The paper's text and table 4, XL/2, within 0.05 %."""
  block, (_, multiplications, millions) = dit_blocks.BLOCKS[name]
  _, spec, method, params = built('papers/dit:XL2', block)
  assert round(size_of(params) / 1e6) == millions
  assert multiplications_of(method, spec, params) == pytest.approx(multiplications, rel=5e-4)


def test_a_token_of_gpt2_costs_what_the_formula_says():
  """6·N + 12·L·d·T operations per token: N the weights of products, all T keys counted."""
  config = families.load_config(
    'papers/nanogpt:gpt2', {'network.attention': 'reference', 'network.scan': True}
  )
  spec = spec_of(config['data'])
  method = families.build(config, spec)
  params, _ = jax.eval_shape(method.init, jax.random.key(0), spec.batch_struct(1))
  emissions = jax.ShapeDtypeStruct((1, 1025, 1), jnp.int32)
  loss = lambda params, x: method.model.apply({'params': params}, x).sum()
  counted = operations(jax.value_and_grad(loss), params, emissions) / 1024
  weights = 12 * 12 * 768**2
  per_token = lambda vocabulary: 6 * (weights + vocabulary * 768) + 12 * 12 * 768 * 1024
  assert counted == per_token(50_304)
  assert per_token(50_257) / 1e9 == pytest.approx(0.8544, abs=5e-5)


def lengths(variant):
  """The config of a variant, its number of steps, and the lengths that depend on its data."""
  config = families.load_config(variant, {})
  size = config['data']['batch_size']
  epoch = max(spec_of(config['data']).num_train // size, 1)
  total = make_schedule(config['train'], epoch, batch_size=size).total
  return config, total, (total, epoch, size)


def cosine(peak, final, warmup, total, n):
  return final + (peak - final) * 0.5 * (1 + math.cos(math.pi * (n - warmup) / (total - warmup)))


@pytest.mark.parametrize(
  ('variant', 'steps', 'rates'),
  [
    ('ddpm:cifar10', 800_000, {0: 2e-4 / 5000, 2499: 1e-4, 5000: 2e-4, 799_999: 2e-4}),
    # 10 million images are 19,531.25 steps of 512, rounded up.
    ('edm:cond_vp', 390_625, {0: 1e-3 / 19_532, 9765: 0.5e-3, 19_532: 1e-3, 390_624: 1e-3}),
    # The data of the tests have 45,000 training images, which are 351 batches of 128.
    ('pixelcnn_pp:cifar10', 1_755_000, {0: 1e-3, 200_000: 1e-3 * 0.999995**200_000}),
    ('tcn:copy_1000', 15_600, {0: 5e-4, 15_599: 5e-4}),
    # 859 batches of 64 of 55,000 images: a tenth of the rate after ten epochs.
    ('tcn:sequential_mnist', 17_180, {0: 2e-3, 8589: 2e-3, 8590: 2e-4, 17_179: 2e-4}),
    ('dit:XL2', 400_000, {0: 1e-4, 399_999: 1e-4}),
    ('dit:XL2_7M', 7_000_000, {0: 1e-4, 6_999_999: 1e-4}),
    (
      'nanogpt:gpt2',
      600_000,
      {999: 3e-4, 2000: 6e-4, 301_000: 3.3e-4, 599_999: 6e-5}
      | {10_000: cosine(6e-4, 6e-5, 2000, 600_000, 10_000)},
    ),
    ('nanogpt:shakespeare_char', 5000, {49: 5e-4, 100: 1e-3, 2550: 5.5e-4, 4999: 1e-4}),
    ('nanogpt:shakespeare_char_cpu', 2000, {49: 5e-4, 100: 1e-3, 1050: 5.5e-4, 1999: 1e-4}),
    (
      'llama2:7B',
      476_837,
      {999: 1.5e-4, 2000: 3e-4, 476_836: 3e-5}
      | {100_000: cosine(3e-4, 3e-5, 2000, 476_837, 100_000)},
    ),
  ],
)
def test_learning_rates(variant, steps, rates):
  assert_learning_rates(variant, steps, rates)


def assert_learning_rates(variant, steps, rates):
  config, total, units = lengths(f'papers/{variant}')
  schedule = make_lr_schedule(config['optimizer'], *units)
  assert total == steps
  np.testing.assert_allclose(
    [schedule(n) for n in rates], list(rates.values()), rtol=1e-4, atol=1e-10
  )


def test_averages():
  """EDM's half-life is 976.5625 steps, rounded up; DDPM and DiT average from the first weights."""
  config, total, (_, epoch, size) = lengths('papers/edm:cond_vp')
  averaging = make_averaging(config['ema'], epoch, total, size)
  at = lambda averaging, n: float(averaging.decay_at(jnp.asarray(n)))
  assert averaging.half_life == 977 and at(averaging, 0) == 0
  assert at(averaging, 1000) == pytest.approx(0.5 ** (1 / 50))  # 5 % of the steps so far
  assert at(averaging, 100_000) == pytest.approx(0.5 ** (1 / 977))
  for variant in ('ddpm:cifar10', 'dit:XL2'):
    config, total, (_, epoch, size) = lengths(f'papers/{variant}')
    assert at(make_averaging(config['ema'], epoch, total, size), 0) == pytest.approx(0.9999)


# What the papers set and a default of ours could silently change.
ADAM = {'optimizer.b1': 0.9, 'optimizer.b2': 0.999, 'optimizer.weight_decay': 0.0}
EPS = {'prediction.target': 'eps', 'prediction.scale_input': False, 'process.name': 'ddpm'}
TABLE = {'process.schedule': 'linear', 'process.steps': 1000, 'objective.times.name': 'uniform'}
ADAMW = {'optimizer.name': 'adamw', 'optimizer.b1': 0.9, 'optimizer.weight_decay': 0.1}
PUBLISHED = {
  'ddpm:cifar10': EPS | TABLE | ADAM | {
    'data.batch_size': 128, 'data.flip': True, 'network.dropout': 0.1,
    'optimizer.name': 'adam', 'optimizer.eps': 1e-8, 'optimizer.clip': 1.0, 'conditional': False,
    'augmentation.probability': 0.0, 'prediction.variance': 'fixed_large', 'sampling.steps': 1000,
    'objective.weighting.name': 'simple', 'sampling.sampler.name': 'ancestral',
  },
  'edm:uncond_vp': ADAM | {
    'data.batch_size': 512, 'data.flip': False, 'network.dropout': 0.13, 'conditional': False,
    'optimizer.name': 'adam', 'optimizer.clip': 0.0, 'augmentation.probability': 0.12,
    'augmentation.x_flip': 1e8, 'objective.times.mean': -1.2, 'objective.times.std': 1.2,
    'prediction.sigma_data': 0.5, 'sampling.steps': 18, 'sampling.sampler.name': 'heun',
    'sampling.grid.rho': 7.0, 'process.sigma_min': 0.002, 'process.sigma_max': 80.0,
    'prediction.noise': 'c_noise',
  },
  'edm:cond_ve': {'conditional': True, 'label_dropout': 0.0, 'prediction.noise': 'edm'},
  'pixelcnn_pp:cifar10': {
    'data.batch_size': 128, 'network.width': 160, 'network.blocks': 5, 'network.levels': 3,
    'network.dropout': 0.5, 'network.conditional': False, 'network.weight_norm': True,
    'head.components': 10, 'optimizer.name': 'adam', 'optimizer.b1': 0.95, 'optimizer.b2': 0.9995,
    'optimizer.clip': 0.0, 'ema.decay': 0.9995, 'ema.warmup': False, 'seed': 1,
  },
  'tcn:jsb': {
    'network.width': 150, 'network.layers': 2, 'network.kernel': 3, 'network.dropout': 0.5,
    'data.batch_size': 1, 'optimizer.name': 'adam', 'optimizer.learning_rate': 1e-3,
    'optimizer.clip': 0.0, 'network.growth': 2, 'network.weight_norm': True, 'seed': 1111,
  },
  'tcn:copy_1000': {
    'network.width': 10, 'network.layers': 8, 'network.kernel': 8, 'network.dropout': 0.05,
    'data.batch_size': 32, 'optimizer.name': 'rmsprop', 'optimizer.eps': 1e-8, 'seed': 1111,
  },
  'tcn:permuted_mnist': {
    'network.width': 25, 'network.layers': 8, 'network.kernel': 7, 'network.dropout': 0.0,
    'data.batch_size': 64, 'data.permutation': 1, 'optimizer.name': 'adam',
    'optimizer.learning_rate': 2e-3, 'optimizer.clip': 0.0, 'seed': 1111,
  },
  'nbeats:tourism_monthly': {
    'data.batch_size': 1024, 'data.context': 168, 'ordering.lookback': 48, 'train.steps': '100',
    'network.units': 512, 'network.stacks': 30, 'network.layers': 4, 'head.loss': 'mape',
  },
  'deepar:ec': {
    'network.name': 'lstm', 'network.layers': 3, 'network.width': 120, 'data.context': 52,
    'data.horizon': 52, 'head.name': 'negative_binomial', 'evaluation.num_samples': 200,
  },
  'dit:XL2': EPS | TABLE | ADAM | {
    'data.batch_size': 256, 'label_dropout': 0.1, 'conditional': True, 'optimizer.name': 'adamw',
    'optimizer.clip': 0.0, 'prediction.variance': 'learned', 'objective.weighting.name': 'simple',
    'network.dropout': 0.0, 'sampling.steps': 250, 'sampling.guidance.weight': 1.0, 'seed': 0,
    'sampling.threshold.name': 'none',
  },
  'nanogpt:gpt2': ADAMW | {
    'data.context': 1024, 'data.batch_size': 480, 'train.micro_batches': 40, 'network.dropout': 0.0,
    'network.positions': 'learned', 'network.norm': 'layer', 'network.norm_eps': 1e-5,
    'optimizer.b2': 0.95, 'optimizer.eps': 1e-8, 'optimizer.clip': 1.0, 'seed': 1337,
  },
  'nanogpt:shakespeare_char': ADAMW | {
    'data.context': 256, 'data.batch_size': 64, 'network.dropout': 0.2, 'optimizer.b2': 0.99,
    'optimizer.clip': 1.0, 'train.best_metric': 'loss', 'train.best_mode': 'min', 'seed': 1337,
  },
  'nanogpt:shakespeare_char_cpu': ADAMW | {
    'data.context': 64, 'data.batch_size': 12, 'network.dropout': 0.0, 'optimizer.b2': 0.99,
  },
  'llama2:7B': ADAMW | {
    'data.context': 4096, 'data.batch_size': 1024, 'network.kv_heads': 0, 'model.tied': False,
    'network.rotary_base': 10_000.0, 'optimizer.b2': 0.95, 'optimizer.eps': 1e-5,
    'optimizer.clip': 1.0, 'network.norm_eps': 1e-5,
  },
}  # fmt: skip


@pytest.mark.parametrize('variant', PUBLISHED)
def test_settings_are_the_published_ones(variant):
  assert_settings(variant, PUBLISHED[variant])


def assert_settings(variant, expected):
  found = flatten(families.load_config(f'papers/{variant}', {}))
  assert {name: found.get(name) for name in expected} == expected


def test_initial_weights_and_weight_decay_of_nanogpt():
  """Deviation 0.02, or 0.02/√(2·layers) into the residual sum; only norms are not decayed."""
  config, spec, method, _ = built('papers/nanogpt:shakespeare_char_cpu')
  batch = {k: jnp.zeros(v.shape, v.dtype) for k, v in spec.batch_struct(1).items()}
  params, _ = jax.jit(method.init)(jax.random.key(0), batch)
  decayed = decay_mask(config['optimizer']['no_decay'])(params)
  for (path, leaf), decays in zip(
    jax.tree.leaves_with_path(params), jax.tree.leaves(decayed), strict=True
  ):
    name = jax.tree_util.keystr(path)
    assert decays == (leaf.ndim > 1), name
    if leaf.ndim > 1:
      expected = 0.02 / 8**0.5 if "'out'" in name or "'down'" in name else 0.02
      assert np.std(leaf) == pytest.approx(expected, rel=0.03), name


def test_the_bound_of_dit_counts_one_step_in_bits():
  """The authors add one step's cost in bits to the squared error; `hybrid` counts T in nats."""
  objective = families.load_config('papers/dit:XL2', {})['objective']
  assert objective['hybrid'] * 1000 == pytest.approx(1 / math.log(2))


def logistic_nats():
  """Mean nats of a uniform level under a logistic of mean 0 and scale 1 on [-1, 1]."""
  centre, half = np.linspace(-1, 1, 256), 1 / 255
  cdf = lambda x: 1 / (1 + np.exp(-x))
  low = np.where(centre == -1, 0, cdf(centre - half))
  return -np.log(np.where(centre == 1, 1, cdf(centre + half)) - low).mean()


@pytest.mark.parametrize(
  ('variant', 'changes', 'nats'),
  [
    # The head's weights have deviation 0.02, its input variance 1: logits of variance 0.02²·width.
    ('nanogpt:gpt2', {'network.layers': 1}, math.log(50_257) + 0.02**2 * 768 / 2),
    ('nanogpt:shakespeare_char', {'network.layers': 1}, math.log(65) + 0.02**2 * 384 / 2),
    (
      'llama2:7B',
      {'network.layers': 1, 'network.width': 256, 'network.mlp_width': 256, 'network.heads': 4},
      math.log(32_000) + 0.02**2 * 256 / 2,
    ),
    ('tcn:jsb', {'network.width': 8}, math.log(2)),  # 88·ln 2 for each frame
    ('tcn:copy_500', {'network.layers': 1}, math.log(10)),
    ('gated_pixelcnn:cifar10', {'network.width': 8, 'network.layers': 1}, math.log(256)),
    (
      'pixelcnn_pp:cifar10',
      {'network.width': 8, 'network.blocks': 1, 'network.levels': 1},
      logistic_nats(),
    ),
  ],
)
def test_losses_at_the_beginning(variant, changes, nats):
  """Outputs are small at first, so that predictions do not depend on the past."""
  config = families.load_config(f'papers/{variant}', changes)
  spec = spec_of(config['data'])
  method, rng = families.build(config, spec), np.random.default_rng(0)
  batch = {k: jnp.ones(v.shape, v.dtype) for k, v in spec.batch_struct(2).items()}
  batch['x'] = jnp.asarray(rng.integers(0, spec.levels, batch['x'].shape), batch['x'].dtype)
  context = Context(jnp.zeros((), jnp.int32), {}, False, jnp.arange(2), 2)

  @jax.jit
  def loss(batch):
    params, memory = method.init(jax.random.key(0), batch)
    return method.loss(params, memory, batch, jax.random.key(1), context)[1].metrics['loss']

  assert float(loss(batch)) == pytest.approx(nats, rel=0.02)
