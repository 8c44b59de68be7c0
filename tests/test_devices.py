"""Samples, forecasts, likelihoods and evaluations are the same on 1, 2 and 8 devices."""

import functools

import jax
import jax.numpy as jnp
import jaxtyping
import numpy as np
import pytest

from autoregressive.decoding import decoder
from autoregressive.method import build_draft
from common.data.pipeline import Data, evaluation_batches
from common.data.spec import DataSpec
from common.devices.mesh import even_index, mesh_of
from common.evaluation.evaluate import evaluate
from common.evaluation.likelihood import bits_per_dim, hits_of
from common.method import Request
from common.training.parallel import make_mesh, mesh_for_reading
from common.training.sharding import shardings
from diffusion.sampling import requests as diffusion_requests
from experiments import families
from tests.autoregressive import series
from tests.autoregressive.common import perturbed
from tests.cases import evaluation_settings, mostly_slow, slow
from tests.common.domains.toy import Split

SPEC = DataSpec('digits', 'image', (8, 8, 1), 17, 10, tuple('0123456789'), num_train=64)
TEXT = DataSpec('text', 'text', (8,), 12)
NUM = 10  # not a multiple of the devices
KEY = jax.random.key(3)
MESHES = {2: dict(data=2), 8: dict(data=2, fsdp=2, tensor=2)}

DIT = dict(network=dict(name='dit', width=32, depth=1, heads=2))
UNET = dict(
  network=dict(name='unet', width=16, multipliers=(1, 2), blocks=1, attention=(8,), head_width=16)
)
TRANSFORMER = dict(network=dict(name='transformer', width=32, layers=1, heads=4))
GAN = dict(
  generator=dict(name='resnet', width=16, multipliers=(1, 2)),
  discriminator=dict(name='dcgan', width=8, spectral_norm=True),
)
TOKENS = dict(ordering=dict(name='tokens'), **TRANSFORMER)
VAE = dict(network=dict(name='conv', width=8, groups=4))


PAST = jax.random.randint(KEY, (NUM, *SPEC.shape), 0, 12).astype(jnp.uint8)
MASK = jnp.arange(64).reshape(SPEC.shape) < 40
LABEL = jnp.arange(NUM) % 10
PROMPTS = np.asarray(PAST[:, 0, :, 0], np.int32)
GIVEN = np.arange(8) < np.arange(NUM)[:, None] % 5 + 1
TASKS = ('diffusion', SPEC, DIT)
REQUESTS = {
  'ddim': (*TASKS, Request(NUM, LABEL, options=dict(steps=4, guidance=2.0))),
  'ancestral': (*TASKS, Request(NUM, LABEL, options=dict(sampler='ancestral', steps=4))),
  'unet': ('diffusion', SPEC, UNET, Request(NUM, LABEL, options=dict(steps=4))),
  'repaint': (
    *TASKS,
    Request(NUM, LABEL, PAST, MASK, dict(steps=6, task='repaint', jump=2, repeats=2)),
  ),
  'interpolate': (
    *TASKS,
    Request(NUM, LABEL, PAST, options=dict(steps=4, task='interpolate') | {'grid.end': 't_min'}),
  ),
  'gan': ('gan', SPEC, GAN, Request(NUM, LABEL, options=dict(truncation=0.9))),
  'gan_any': ('gan', SPEC, GAN, Request(NUM)),
  'vae': ('vae', SPEC, VAE, Request(NUM, options=dict(pixels='draw', temperature=0.9))),
  'vae_task': ('vae', SPEC, VAE, Request(NUM, None, PAST, options=dict(task='interpolate'))),
  'codes': ('vae', SPEC, VAE | dict(latent=dict(name='codes')), Request(NUM)),
  'draws': ('autoregressive', SPEC, TRANSFORMER, Request(NUM, options=dict(temperature=0.9))),
  'beams': ('autoregressive', TEXT, TOKENS, Request(NUM, None, PROMPTS, GIVEN, dict(beams=3))),
  'prompts': ('autoregressive', TEXT, TOKENS, Request(NUM, None, PROMPTS, GIVEN)),
  'sliding': ('autoregressive', TEXT, TOKENS, Request(NUM, options=dict(length=20, slide=True))),
}
QUICK = [('ddim', 8), ('draws', 8), ('gan', 8)]  # (request, devices)
# All on a mesh of three axes, and on one of data alone a program of each family.
PLACES = [*((name, 8) for name in REQUESTS), ('ddim', 2), ('draws', 2), ('gan', 2), ('vae', 2)]
# The others differ from these in the sampler, or in what is given.
KINDS = [r for r in REQUESTS if r not in ('ancestral', 'gan_any', 'vae_task', 'interpolate')]


@functools.cache
def model(name):
  """(config, method, parameters away from their initial values, on one device) of a request."""
  family, spec, sections, _ = REQUESTS[name]
  config = families.complete(dict(family=family, data=dict(batch_size=8), **sections))
  method = families.build(config, spec)
  params, _ = jax.jit(method.init)(KEY, spec.batch_struct(1))
  return config, method, jax.device_get(perturbed(params, 0.1))


def on(devices, params):
  """Parameters on a mesh of a number of devices."""
  if devices == 1:
    return params
  mesh = make_mesh(dict(data=1, fsdp=1, tensor=1) | MESHES[devices], jax.devices()[:devices])
  return jax.device_put(params, shardings(params, mesh))


@pytest.mark.parametrize(('name', 'devices'), mostly_slow(PLACES, QUICK))
def test_samples_do_not_depend_on_the_devices(name, devices):
  _, method, params = model(name)
  request = REQUESTS[name][-1]
  one = method.draw(params, KEY, request)
  other = method.draw(on(devices, params), KEY, request)
  assert one.evaluations == other.evaluations and other.x.shape[0] == NUM
  # Values next to a rounding boundary may fall on its other side.
  assert (np.asarray(one.x) != np.asarray(other.x)).mean() < 0.01
  assert len(np.unique(np.asarray(one.x), axis=0)) >= NUM - 2


@pytest.mark.parametrize('name', mostly_slow(KINDS, ['draws']))
def test_a_number_of_samples_that_divides_in_part(name):
  """28 samples: left to itself, the compiler splits the inputs over four of eight devices."""
  _, method, params = model(name)
  request = REQUESTS[name][-1].part(np.arange(28) % NUM)
  if request.mask is not None:
    request = request._replace(mask=jnp.broadcast_to(request.mask, request.past.shape))
  mesh = make_mesh(dict(data=8, fsdp=1, tensor=1))
  assert len(method.draw(jax.device_put(params, shardings(params, mesh)), KEY, request).x) == 28


def counting(compiled, counts, *arguments):
  """Runs a compiled function, and notes the operations of one device as XLA counts them."""
  # JAX lowers a function with stand-ins in place of arrays.
  jaxtyping.config.update('jaxtyping_disable', True)
  counts.append(compiled.lower(*arguments).compile().cost_analysis()['flops'])
  jaxtyping.config.update('jaxtyping_disable', False)
  return compiled(*arguments)


@pytest.mark.parametrize(
  ('name', 'module', 'function'),
  [('ddim', diffusion_requests, 'run_sampler'), *slow([('draws', decoder, 'draw_program')])],
)
def test_each_device_draws_only_its_part(name, module, function, monkeypatch):
  counts, (_, method, params) = [], model(name)
  counted = functools.partial(counting, getattr(module, function), counts)
  monkeypatch.setattr(module, function, counted)
  # Each call compiles for another number of samples or devices.
  request = REQUESTS[name][-1].part(np.arange(16) % NUM)
  for settings in (dict(data=1), dict(data=8)):
    mesh = make_mesh(dict(fsdp=1, tensor=1) | settings, jax.devices()[: settings['data']])
    method.draw(jax.device_put(params, shardings(params, mesh)), KEY, request)
  assert counts[1] < 0.15 * counts[0]


@pytest.mark.slow
def test_forecasts_do_not_depend_on_the_devices():
  method, _, params = series.series_method()
  batch = series.windows(NUM)
  request = Request(NUM, batch['label'], batch['x'], series.MASK)
  one = method.draw(params, KEY, request)
  other = method.draw(on(8, params), KEY, request)
  np.testing.assert_allclose(other.x, one.x, rtol=1e-4)
  assert len(np.unique(np.asarray(one.x)[:, -1, 0])) == NUM


@pytest.mark.slow
def test_speculative_draws_do_not_depend_on_the_devices():
  config, _, params = model('prompts')
  draft = build_draft(config, TEXT, perturbed(params, 0.05))
  request = REQUESTS['prompts'][-1]
  one = families.FAMILIES['autoregressive'].build(config, TEXT, draft=draft)
  # A draft may be on another mesh of the same devices.
  elsewhere = mesh_for_reading(dict(data=2, fsdp=4, tensor=1))
  draft = draft._replace(params=jax.device_put(draft.params, shardings(draft.params, elsewhere)))
  other = families.FAMILIES['autoregressive'].build(config, TEXT, draft=draft)
  first, second = one.draw(params, KEY, request), other.draw(on(8, params), KEY, request)
  np.testing.assert_array_equal(first.x, second.x)
  assert first.evaluations == second.evaluations


def split(num):
  """Random examples of SPEC."""
  x = np.random.default_rng(1).integers(0, 17, (num, *SPEC.shape)).astype(np.uint8)
  return Split(x=x, label=np.arange(num, dtype=np.int32) % 10)


@pytest.mark.parametrize(
  ('name', 'devices'), mostly_slow([('ddim', 8), ('draws', 2), ('draws', 8)], [('draws', 8)])
)
def test_likelihoods_do_not_depend_on_the_devices(name, devices):
  _, method, params = model(name)
  # Batches of 6, the last of them padded: neither divides over 8 devices.
  batches = list(evaluation_batches(split(NUM), 6))
  one = bits_per_dim(method, params, batches, SPEC.num_dims, KEY)
  other = bits_per_dim(method, on(devices, params), batches, SPEC.num_dims, KEY)
  assert one.num == other.num == NUM
  assert other.value == pytest.approx(one.value, rel=1e-5)
  assert other.standard_error == pytest.approx(one.standard_error, rel=1e-4)


@pytest.mark.slow
def test_hits_do_not_depend_on_the_devices():
  _, method, params = model('draws')
  batches = list(evaluation_batches(split(NUM), 6))
  one, other = (
    [hits_of(method, on(devices, params), batch) for batch in batches] for devices in (1, 8)
  )
  assert sum(len(hits.total) for hits in one) == NUM
  jax.tree.map(np.testing.assert_array_equal, one, other)


@pytest.mark.slow
@pytest.mark.parametrize('name', ['ddim', 'draws'])
def test_evaluations_do_not_depend_on_the_devices(name):
  _, method, params = model(name)
  data = Data(SPEC, {'train': split(60), 'test': split(NUM)})
  settings = evaluation_settings(batch_size=7, num_samples=30, extractor='pixels')
  metrics = ['frechet', 'bits_per_dim', 'evaluations']
  one, other = (
    evaluate(method, on(devices, params), data, settings, KEY, metrics) for devices in (1, 8)
  )
  for metric in metrics:
    assert other.measures[metric].value == pytest.approx(one.measures[metric].value, rel=1e-3)


def test_a_run_is_read_onto_all_devices():
  number = jax.device_count()
  assert mesh_for_reading(dict(data=-1, fsdp=2, tensor=2)).shape['data'] == number // 4
  # Trained on other numbers of devices: the parameters stay split if they were.
  assert dict(mesh_for_reading(dict(data=3, fsdp=1, tensor=1)).shape)['data'] == number
  assert dict(mesh_for_reading(dict(data=2, fsdp=32, tensor=4)).shape)['fsdp'] == number
  assert mesh_for_reading(dict(data=2, fsdp=32, tensor=4), jax.devices()[:1]).size == 1


def test_the_mesh_of_arrays():
  kernel = {'kernel': np.ones((64, 64), np.float32)}
  assert mesh_of(kernel) is None and mesh_of(jax.device_put(kernel)) is None
  assert dict(mesh_of(on(8, kernel)).shape) == MESHES[8]
  np.testing.assert_array_equal(even_index(3, mesh_of(on(8, kernel))), [0, 1, 2, 2])
  np.testing.assert_array_equal(even_index(3, None), [0, 1, 2])
