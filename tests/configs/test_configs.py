"""Every variant of every config builds, initialises and has a finite loss, at its own shapes."""

import dataclasses
import math
import pathlib

import jax
import jax.numpy as jnp
import pytest

from common import config_files
from common.baselines.vae.first_stage import untrained
from common.data.builders import BUILDERS
from common.data.music import Pitches
from common.data.palettes import Palette
from common.data.spec import DataSpec, SeriesSpec, latent_spec
from common.data.tokenizers import Bytes, Characters
from common.method import Context
from common.training.parallel import make_mesh
from common.training.program import build_program
from configs.papers import nbeats, pixelcnn_pp
from experiments import families
from tests.cases import mostly_slow

SPECS = {
  'digits': DataSpec('digits', 'image', (8, 8, 1), 17, 10, tuple('0123456789'), 1445),
  'mnist': DataSpec('mnist', 'image', (28, 28, 1), 256, 10, tuple('0123456789'), 55_000),
  'fashion_mnist': DataSpec('fashion_mnist', 'image', (28, 28, 1), 256, 10, (), 55_000),
  'cifar10': DataSpec('cifar10', 'image', (32, 32, 3), 256, 10, (), 45_000),
}
LETTERS = Characters(''.join(map(chr, range(32, 116))))
SPECS['stacked_mnist'] = DataSpec('stacked_mnist', 'image', (28, 28, 3), 256, num_train=55_000)
SPECS |= {
  'shakespeare': DataSpec('shakespeare', 'text', (65,), 84, num_train=74_794, tokenizer=LETTERS),
  'python_code': DataSpec('python_code', 'text', (65,), 256, num_train=1000, tokenizer=Bytes()),
}
SPECS['none'] = DataSpec('none', 'text', (65,), 300, num_train=1000)  # convert --read
MONTHLY = SeriesSpec(12, 12, counts=True, covariates=('age', 'year_sin', 'year_cos'))
SPECS |= {
  name: DataSpec(name, 'series', (60, 4), 0, 2, ('a', 'b'), 1000, series=MONTHLY)
  for name in ('series', 'aus_retail')
}
STEPS = SeriesSpec(18, 12, covariates=('age',), origins=(5.0, 9.0), units=(2.0, 3.0))
PITCHES = Pitches(36, 81)
SPECS['chorales'] = DataSpec('chorales', 'music', (65, 4), 93, num_train=1009, pitches=PITCHES)
SPECS |= {
  name: DataSpec(name, 'points', (1, 1, 2), 0, num_train=20_000) for name in ('ring', 'gaussians25')
}


LATENTS = DataSpec('npz', 'image', (32, 32, 4), 0, 1000, num_train=1_000_000)
VOCABULARIES = {'bytes': 256, 'characters': 65, 'gpt2': 50_257}


def spec_of(data):
  """The spec of the data that the section `data` of a config asks for."""
  spec = images_of(data)
  if not data['first_stage']:
    return spec
  latent = {'latent.name': 'codes' if 'codes' in data['first_stage'] else 'gaussian'}
  config = families.load_config('configs/vae/images.py', latent)
  return latent_spec(spec, untrained(config, spec))


def images_of(data):
  if data['name'] == 'npz':
    return LATENTS
  if data['name'] == 'text':
    levels = VOCABULARIES.get(data['tokenizer'], data['vocabulary'])
    tokenizer = Bytes() if data['tokenizer'] == 'bytes' else None
    return DataSpec(
      'text', 'text', (data['context'] + 1,), levels, num_train=100_000, tokenizer=tokenizer
    )
  if data['name'] == 'piano_rolls':
    shape, keys = (data['context'] + 1, 88), Pitches(21, 108)
    return DataSpec('rolls', 'rolls', shape, 2, num_train=229, pitches=keys, counted=True)
  if data['name'] in ('m3', 'm4', 'tourism'):
    shape = (data['context'] + STEPS.horizon, 2)
    return DataSpec(data['name'], 'series', shape, 0, 2, ('a', 'b'), 1000, series=STEPS)
  if data['name'] == 'copy_memory':
    shape = (data['blanks'] + 32,)
    return DataSpec('copies', 'text', shape, 10, num_train=10_000, tokenizer=LETTERS, counted=True)
  if data['name'].startswith('sequential_'):
    return DataSpec(data['name'], 'text', **BUILDERS[data['name']].expected(data))
  if data['name'] == 'dialogues':
    return DataSpec('dialogues', 'text', (513,), 256, tokenizer=Bytes(), counted=True)
  if data['name'] == 'imagenet':
    shape = (data['image_size'], data['image_size'], 3)
    return DataSpec('imagenet', 'image', shape, 256, 1000, num_train=1_281_167)
  size, colours = data['image_size'], data['palette']
  if data['name'] != 'image_folder':
    spec = SPECS[data['name']]
    return dataclasses.replace(spec, shape=(size, size, spec.shape[-1])) if size else spec
  if not colours:
    return DataSpec('image_folder', 'image', (size, size, 3), 256)
  palette = Palette(tuple((0, i // 256, i % 256) for i in range(colours)))
  return DataSpec('image_folder', 'image', (size, size, 1), colours, palette=palette)


ROOT = pathlib.Path(__file__).parents[2]
FILES = sorted(
  str(f.relative_to(ROOT))
  for family in ('diffusion', 'autoregressive', 'gan', 'vae', 'classifier', 'papers')
  for f in (ROOT / 'configs' / family).glob('*.py')
  if 'def get_config' in f.read_text()
)
STUDIES = sorted(
  str(f.relative_to(ROOT))
  for f in (ROOT / 'configs' / 'ablations').rglob('*.py')
  if 'def get_study' in f.read_text()
)
VARIANTS = [
  f'{file}:{variant}'
  for file in FILES
  for variant in config_files.load_module(str(ROOT / file)).VARIANTS
]


# Tracing these takes longer than all other variants together; those that are left have their code.
LARGE = ('diffusion/images.py:cifar10',)
LARGE += ('ddpm.py:cifar10', '_vp', '_ve', 'nanogpt.py:gpt2')
LARGE += ('diffusion/images.py:folder32', ':digits_pp')
LARGE += (
  'gan/images.py:cifar10',
  'images.py:mnist',
  'autoregressive/images.py:cifar10',
  'vae/images.py:cifar10',
  'cifar10_first_stage',
  'cifar10_latents',
  'cifar10_codes',
)
# Each of these takes more than a second, and is not the default of its file.
OTHERS = ('images.py:digits_2x2', 'images.py:digits_4x4', 'images.py:palette', ':folder32')
OTHERS += ('images.py:digits_eps', 'chorales.py:together')
OTHERS += ('series.py:aus_retail_gaussian', 'text.py:python_bytes', 'text.py:file')
OTHERS += ('nanogpt.py:shakespeare_char', 'forecasts.py:tcn', 'forecasts.py:transformer')
OTHERS += ('tcn.py:nottingham', 'tcn.py:copy_memory', 'autoregressive/tcn.py:sequential_mnist')
OTHERS += ('nbeats_smape', 'nbeats_mase', 'nbeats_interpretable')
OTHERS += ('published.py:none', 'published.py:file', 'published.py:full', 'published.py:lora')
OTHERS += (
  'dialogues.py:lora_bf16',
  'dialogues.py:full',
  'forecasts.py:deepar',
  'forecasts.py:nbeats',
)
OTHERS += (
  'mnist_latents',
  'mnist14',
  'mnist_transformer',
  'stacked_mnist',
  'digits_first_stage',
  'digits_gaussian',
  'points.py:ring',
  'points.py:ring_r1',
  'gaussians25_r1',
)
OTHERS += ('pixelcnn_pp.py:cifar10',)
OTHERS += ('gated_pixelcnn.py:cifar10', 'gated_pixelcnn.py:imagenet64', 'deepar.py:parts')
OTHERS += ('tcn.py:copy_1000', 'nbeats.py:m3_yearly', 'nbeats.py:m3_yearly_interpretable')
OTHERS += ('nbeats.py:tourism_monthly',)
# Deep U-Nets, traced with one block in a level; `test_diffusion_papers.py` has their full sizes.
DEEP = tuple(
  f'configs/papers/{paper}.py'
  for paper in ('improved_ddpm', 'score_sde', 'progressive_distillation', 'guidance', 'vdm')
)
OTHERS += ('improved_ddpm.py:hybrid_cosine', 'improved_ddpm.py:vlb_cosine', 'vdm.py:cifar10')
OTHERS += ('score_sde.py:vp', 'score_sde.py:ve', 'progressive_distillation.py:x_truncated_snr')
OTHERS += ('guidance.py:p10', 'guidance.py:adm', 'guidance.py:adm_classifier', 'dit.py:S8')
SLOW = LARGE + OTHERS
# These differ from a traced one in sizes alone, or in a target or a process that other tests trace.
ALIKE = tuple(v for v in VARIANTS if v.startswith(DEEP))
ALIKE += tuple(v for v in VARIANTS if 'papers/dit.py' in v and not v.endswith(':XL2'))
ALIKE += tuple(v for v in VARIANTS if 'papers/sit.py' in v and not v.endswith(':B2_gvp_score'))
ALIKE += tuple(f'papers/nbeats.py:{name}' for name in nbeats.VARIANTS)
ALIKE += tuple(f'pixelcnn_pp.py:{name}' for name in pixelcnn_pp.VARIANTS)
ALIKE += ('tcn.py:sequential_mnist', 'tcn.py:permuted_mnist', 'tcn.py:permuted_digits')
ALIKE += ('tcn.py:copy_500', 'tcn.py:copy_2000', 'deepar.py:traffic', 'deepar.py:ec')
ALIKE += ('edm.py:cond_ve', 'edm.py:uncond_vp')
ALIKE += ('images.py:fashion_mnist', 'images.py:folder64', 'mnist14_eps', 'vae/images.py:mnist')
ALIKE += ('mnist_codes', 'mnist_first_stage', 'cifar10_first_stage')
ALIKE += ('autoregressive/images.py:mnist', 'pixelcnn.py:mnist', 'pixelcnn.py:mnist_pp')
TRACED = [
  pytest.param(v, marks=pytest.mark.slow) if v.endswith(SLOW) else v
  for v in VARIANTS
  if v.endswith(OTHERS) or not v.endswith(ALIKE)
]
UNTRACED = [v for v in VARIANTS if v.endswith(ALIKE) and not v.endswith(OTHERS)]


@pytest.mark.parametrize('variant', TRACED)
def test_a_variant_builds_and_its_step_can_be_lowered(variant):
  config = families.load_config(variant, {'network.blocks': 1} if variant.startswith(DEEP) else {})
  spec = spec_of(config['data'])
  method = families.build(config, spec)
  mesh = make_mesh(config['parallel'], jax.devices()[:1])
  step = build_program(config, method, spec, mesh).step
  batch = {
    k: jax.ShapeDtypeStruct((2, *v.shape), v.dtype)
    for k, v in spec.batch_struct(config['data']['batch_size']).items()
  }
  _, metrics = jax.eval_shape(step.run, step.abstract_state, batch)
  assert metrics['loss'].shape == (2,) and metrics['loss'].dtype == jnp.float32


@pytest.mark.slow
@pytest.mark.parametrize('variant', UNTRACED)
def test_a_variant_that_is_not_traced_builds(variant):
  config = families.load_config(variant, {})
  families.build(config, spec_of(config['data']))


# The others differ from it in the family, the network or the target.
QUICK = ('configs/autoregressive/images.py:digits_4x4',)


@pytest.mark.parametrize('variant', mostly_slow([v for v in VARIANTS if ':digits' in v], QUICK))
def test_a_small_variant_has_a_finite_loss(variant):
  config = families.load_config(variant, {})
  spec = spec_of(config['data'])
  method = families.build(config, spec)
  batch = {
    'x': jax.random.randint(jax.random.key(1), (4, *spec.shape), 0, spec.levels).astype(jnp.uint8),
    'label': jnp.arange(4),
  }
  params, memory = jax.jit(method.init)(jax.random.key(0), batch)

  @jax.jit
  def loss(params, memory, batch):
    context = Context(jnp.zeros((), jnp.int32), params, True, jnp.arange(4), 4)
    return method.loss(params, memory, batch, jax.random.key(2), context)

  value, aux = loss(params, memory, batch)
  assert math.isfinite(value) and float(aux.count) > 0


@pytest.mark.parametrize('file', FILES)
def test_a_config_opens_with_its_command_and_refuses_an_unknown_variant(file):
  text = (ROOT / file).read_text()
  assert f'twofold train --config={file}' in text.split('"""')[1]
  with pytest.raises(ValueError, match='unknown variant'):
    families.load_config(f'{file}:nothing', {})


@pytest.mark.parametrize('file', [*FILES, *STUDIES])
def test_a_file_says_what_it_reproduces_and_what_to_expect(file):
  opening = (ROOT / file).read_text().split('"""')[1]
  assert 'twofold ' in opening and f'={file}' in opening
  assert '\nReproduces: ' in opening and '\nTo expect' in opening
