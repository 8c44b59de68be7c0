"""Programs compiled for TPUs that are not there: checks, accounting, and what a compiler says."""

import dataclasses
import functools
import importlib.util
import json
import math
import pathlib
import re
import shlex

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P

from autoregressive.decoding.decoder import draw_program
from common import config_files
from common.config import ConfigError
from common.devices.mesh import scope
from common.training.parallel import make_mesh
from diffusion.sampling.program import run_sampler
from experiments import config_flag, families
from experiments.compile import programs, report, table, topologies
from experiments.compile.collectives import Traffic, collectives
from experiments.compile.data import spec_of
from experiments.compile.suggest import as_flags, suggestions
from tests.experiments.commands import ended, refused

ROOT = pathlib.Path(__file__).parents[2]
PAGE = (ROOT / 'docs' / 'tpu.md').read_text()
SMALL = {
  'diffusion': ('diffusion/images:digits', {'network.width': 32, 'network.depth': 1}),
  'autoregressive': (
    'autoregressive/images:digits_4x4',
    {'network.width': 32, 'network.layers': 1},
  ),
}


@functools.cache
def built(family):
  """(config, method, spec) of a small config of a family."""
  file, changes = SMALL[family]
  config = families.load_config(file, changes | {'evaluation.batch_size': 16})
  spec = spec_of(config['data'], {})
  return config, families.build(config, spec), spec


def placed(family, step, devices=8, **parallel):
  config, method, spec = built(family)
  config = config | {'parallel': config['parallel'] | parallel}
  return programs.place(step, config, method, spec, jax.devices()[:devices])


# Bad input.


@pytest.mark.parametrize(
  ('name', 'message'),
  [
    ('v9:4x4', "no generation of TPUs 'v9'.* v4:2x2x2, v5e:2x2, .*v6e:2x2"),
    ('v5:4x4', "did you mean 'v5[ep]'"),
    ('v5e:3x5', 'no such slice of v5e; known: v5e:1x1, v5e:2x2, .*v5e:16x16'),
    ('v5e-256', 'no generation'),
    ('v4', 'no such slice of v4; known: v4:2x2x1'),
  ],
)
def test_an_unknown_topology_lists_the_known_ones(name, message):
  with pytest.raises(ConfigError, match=message):
    topologies.parse(name)


@pytest.mark.parametrize(
  ('flags', 'message'),
  [
    ((), '--topology is missing'),
    (('--topology=v5e:4x4',), '--config is missing'),
    (('--topology=v5e:5x5', '--config=papers/dit'), 'no such slice'),
    (('--topology=v5e:4x4', '--config=papers/dit'), '--spec=shape='),
    (('--topology=v5e:4x4', '--config=papers/dit', '--spec=levels=-1'), 'levels must be at least'),
    (('--topology=v5e:4x4', '--config=papers/dit', '--spec=shape=8'), 'tuple of sizes'),
    (('--topology=v5e:4x4', '--config=papers/dit', '--spec=width=8'), 'unknown attribute'),
    (('--topology=v5e:4x4', '--config=papers/dit', '--spec=levels'), '--spec='),
    (('--topology=v5e:4x4', '--config=autoregressive/series'), 'prepare it first'),
  ],
)
def test_the_command_refuses_in_one_line(flags, message):
  assert message in refused('compile', *flags)


def test_a_mesh_must_multiply_to_the_devices_and_the_batch_must_divide():
  with pytest.raises(ConfigError, match='must be the number of devices, 8, got data=3'):
    placed('diffusion', 'train', data=3)
  config, method, spec = built('autoregressive')
  odd = config | {'data': config['data'] | {'batch_size': 100}}
  with pytest.raises(ConfigError, match=r'batch_size=100 must be a multiple of 8 .* is 96'):
    programs.place('train', odd, method, spec, jax.devices())
  with pytest.raises(ConfigError, match=r"only parallel\.mode='jit'"):
    placed('diffusion', 'train', mode='pmap')


def test_a_state_that_exceeds_the_memory_is_refused_before_it_is_compiled():
  tiny = topologies.Slice('v5e:2x4', topologies.GENERATIONS['v5e']._replace(limit=1e-4))
  program = placed('diffusion', 'train')
  with pytest.raises(report.TooLargeError, match=r'alone needs 0\.\d+ GiB of each chip, .* optimi'):
    report.compile_for(program, tiny)


@pytest.mark.parametrize(('family', 'step', 'other'), [
  ('diffusion', 'decode', 'sample'), ('autoregressive', 'sample', 'decode'),
])  # fmt: skip
def test_a_step_of_the_other_family_is_refused(family, step, other):
  with pytest.raises(ConfigError, match=f'write --step={other}'):
    placed(family, step)


def test_a_prompt_needs_no_tokenizer():
  config = families.load_config('papers/nanogpt:gpt2', {'network.layers': 1, 'network.width': 12})
  spec = spec_of(config['data'], {'levels': 50})
  request = programs.sample_request(families.build(config, spec), spec, 9)
  assert request.num == 9 and request.past.shape == (9, 1)


def test_the_description_of_latents_must_be_whole():
  config = families.load_config('diffusion/images:mnist_latents', {})
  with pytest.raises(ConfigError, match='and lacks shape and levels: '):
    spec_of(config['data'], {'num_classes': 10})
  given = dict(shape=(7, 7, 4), levels=0, num_classes=10)
  assert spec_of(config['data'], given).shape == (7, 7, 4)


def test_latents_have_no_likelihood():
  config = families.load_config('papers/dit:S8', {'network.depth': 1})
  spec = spec_of(config['data'], dict(shape=(32, 32, 4), levels=0, num_classes=10))
  with pytest.raises(ConfigError, match='has no likelihood'):
    programs.place('nll', config, families.build(config, spec), spec, jax.devices())


# The data.


@pytest.mark.parametrize(
  ('data', 'shape', 'levels', 'classes'),
  [
    (dict(name='cifar10'), (32, 32, 3), 256, 10),
    (dict(name='mnist'), (28, 28, 1), 256, 10),
    (dict(name='text', tokenizer='gpt2', context=1024), (1025,), 50_257, 0),
    (dict(name='text', tokenizer='bpe', vocabulary=32_000, context=8), (9,), 32_000, 0),
    (dict(name='text', tokenizer='bytes', context=8), (9,), 256, 0),
  ],
)
def test_settings_tell_the_spec_of_data_that_are_not_prepared(
  data, shape, levels, classes, tmp_path
):
  spec = spec_of(data | {'dir': str(tmp_path)}, {})
  assert (spec.shape, spec.levels, spec.num_classes) == (shape, levels, classes)


def test_the_expected_spec_of_digits_is_that_of_the_prepared_data(tmp_path):
  from common.data import pipeline

  settings = built('diffusion')[0]['data']
  before = spec_of(settings | {'dir': str(tmp_path)}, {})
  prepared = pipeline.load(settings).spec
  assert before == dataclasses.replace(prepared, class_names=())
  assert spec_of(settings, {}) == prepared


def test_given_attributes_replace_what_the_settings_tell():
  text = dict(name='text', tokenizer='characters', context=16)
  with pytest.raises(ConfigError, match='its levels must be given'):
    spec_of(text, {})
  assert spec_of(text, {'levels': 65}).levels == 65


# What is in memory.


@pytest.mark.parametrize('parallel', [dict(), dict(data=2, fsdp=4), dict(data=2, fsdp=2, tensor=2)])
def test_kept_bytes_are_those_of_the_arrays_on_a_device(parallel):
  program = placed('autoregressive', 'train', **parallel)
  state = program.program.arguments[0]
  sharding = jax.tree.map(lambda x: x.sharding, state)
  made = jax.jit(
    lambda: jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), state), out_shardings=sharding
  )()
  on_first = lambda tree: sum(
    part.data.nbytes
    for leaf in jax.tree.leaves(tree)
    for part in leaf.addressable_shards
    if part.device == jax.devices()[0]
  )
  kept = {name: programs.bytes_on_device(arrays) for name, arrays in program.kept.items()}
  assert kept == {
    'parameters': on_first(made.params),
    'optimiser state': on_first(made.opt_state),
    'averages': on_first((made.ema, made.averages)),
  }
  if not parallel:  # float32, whole on every device; Adam has two moments, and counts steps
    number = sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(state.params))
    assert kept['parameters'] == kept['averages'] == 4 * number
    assert 0 <= kept['optimiser state'] - 8 * number < 64


def test_what_the_compiler_says_is_read():
  text = (
    'Memory Space: default (color=0)\nTotal bytes: 14218841088 (13.24GiB)\n  cumulative_size;\n'
    'Memory Space: vmem (color=1)\nTotal bytes: 77 (77B)\n'
  )
  assert report.reported_memory(text) == 14_218_841_088
  refusal = jax.errors.JaxRuntimeError(
    'RESOURCE_EXHAUSTED: Ran out of memory on HBM, the total memory required for HLO temporaries '
    '(28.22G) exceeds available HBM (15.75G).'
  )
  assert report.needed_memory(refusal) == round(28.22 * 2**30)
  for other in ('INTERNAL: (28.22G) exceeds', 'RESOURCE_EXHAUSTED: of vmem'):
    with pytest.raises(jax.errors.JaxRuntimeError):
      report.needed_memory(jax.errors.JaxRuntimeError(other))


# Collectives.


def test_collectives_of_a_compiled_program_are_counted_with_the_rounds_of_loops():
  mesh = make_mesh(dict(data=4, fsdp=2, tensor=1))

  def body(total, _):
    return total + jax.lax.psum(total, 'data'), None

  def per_device(x):  # [4, 16] of float32 on each device
    x, _ = jax.lax.scan(body, x, None, length=5)
    x = jax.lax.all_gather(x, 'fsdp', tiled=True)
    return jax.lax.ppermute(x, 'data', [(i, (i + 1) % 4) for i in range(4)])

  mapped = jax.shard_map(
    per_device, mesh=mesh, in_specs=P('data'), out_specs=P('data'), check_vma=False
  )
  text = jax.jit(mapped).lower(jnp.ones((16, 16))).compile().as_text()
  size = 4 * 16 * 4
  assert collectives(text) == {
    'all-reduce': Traffic(5, 5 * size),
    'all-gather': Traffic(1, 2 * size),
    'collective-permute': Traffic(1, 2 * size),
  }


TPU_TEXT = """\
HloModule jit_step
%add (a: f32[], b: f32[]) -> f32[] {
  ROOT %sum = f32[] add(%a, %b)
}

%body (p: (s32[], bf16[8,128])) -> (s32[], bf16[8,128]) {
  %p = (s32[]{:T(128)}, bf16[8,128]{1,0:T(8,128)(2,1)}) parameter(0)
  %x = bf16[8,128]{1,0:T(8,128)(2,1)} get-tuple-element(%p), index=1
  %g = (bf16[8,128]{1,0}, bf16[64,128]{1,0:T(8,128)(2,1)}) all-gather-start(%x), dimensions={0}
  ROOT %r = bf16[1,128]{1,0} reduce-scatter(%x), dimensions={0}, to_apply=%add
}

%condition (p.1: (s32[], bf16[8,128])) -> pred[] {
  %limit = s32[]{:T(128)} constant(32)
  %index = s32[]{:T(128)} get-tuple-element(%p.1), index=0
  ROOT %lt = pred[]{:T(512)} compare(%index, %limit), direction=LT
}

ENTRY %main (x.1: bf16[8,128], /*index=5*/y: f32[4]) -> bf16[8,128] {
  %loop = (s32[]{:T(128)}, /*index=1*/bf16[8,128]{1,0}) while(%t), condition=%condition, body=%body
  %a = f32[4]{0:T(128)} parameter(1)
  ROOT %all = (f32[4]{0}, f32[4]{0}) all-reduce(%a, %a), to_apply=%add
}
"""


def test_the_text_of_a_tpu_program_has_its_rounds_in_the_condition():
  assert collectives(TPU_TEXT) == {
    'all-gather': Traffic(32, 32 * 64 * 128 * 2),
    'all-reduce': Traffic(1, 2 * 4 * 4),
    'reduce-scatter': Traffic(32, 32 * 8 * 128 * 2),
  }


# Programs of the other steps.


@pytest.mark.parametrize(
  ('family', 'step', 'program'),
  [('diffusion', 'sample', run_sampler), ('autoregressive', 'decode', draw_program)],
)
def test_the_program_of_samples_is_the_one_that_sampling_runs(family, step, program):
  config, method, spec = built(family)
  found = placed(family, step)
  assert found.program.function is program
  params = jax.jit(method.init)(jax.random.key(0), {'x': np.zeros((1, *spec.shape), spec.dtype)})[0]
  where = jax.tree.map(lambda x: x.sharding, found.kept['parameters'])
  params = jax.device_put(params, where)
  request = programs.sample_request(method, spec, config['evaluation']['batch_size'])
  method.draw(params, jax.random.key(1), request)
  before = program._cache_size()
  with scope(found.mesh):
    method.sampling_program(params, request).run()
  assert program._cache_size() == before


@pytest.mark.parametrize(
  ('family', 'step', 'attention'),
  [
    ('diffusion', 'train', 'reference'),
    ('autoregressive', 'train', 'blocks'),
    ('diffusion', 'nll', 'reference'),
    ('autoregressive', 'nll', 'blocks'),
    # Not decode: in the tests beartype refuses the limits that JAX fills with descriptions.
    ('diffusion', 'sample', 'reference'),
  ],
)
def test_programs_are_lowered_for_all_devices_and_name_their_attention(family, step, attention):
  found = placed(family, step, data=4, fsdp=2)
  with scope(found.mesh):
    lowered = found.program.function.trace(*found.program.arguments).lower()
  assert report.attention_in(lowered) == (attention,)
  assert 'num_partitions = 8' in lowered.as_text()[:500]


# Suggestions, and the page.


def test_suggestions_come_in_order_and_keep_the_batch():
  config = families.load_config('papers/nanogpt:gpt2', {'precision': 'float32'})
  config = config | {'train': config['train'] | {'micro_batches': 10}}  # 480 = 8 · 10 · 6
  found = [as_flags(each) for each in suggestions(config, 'train', 8)]
  cheap = '--config.precision=bfloat16 --config.network.remat=nothing'
  assert found[:5] == [
    '--config.precision=bfloat16',
    cheap,
    f'{cheap} --config.train.micro_batches=20',
    f'{cheap} --config.train.micro_batches=60',
    f'{cheap} --config.parallel.data=4 --config.parallel.fsdp=2 --config.parallel.tensor=1',
  ]
  for typed in found:
    texts = {}
    for flag in typed.split():
      key, _, value = flag.removeprefix('--config.').partition('=')
      texts[key] = [value]
    changed = config_flag.load('papers/nanogpt:gpt2', texts)
    sizes = changed['parallel']
    assert changed['data']['batch_size'] == 480
    assert sizes['data'] == -1 or sizes['data'] * sizes['fsdp'] * sizes['tensor'] == 8
  assert as_flags(next(suggestions(config, 'train', 8, state_fits=False))) == found[4]
  assert not any('micro' in as_flags(each) for each in suggestions(config, 'decode', 8))


def test_the_page_lists_every_variant_of_its_papers():
  for file in config_files.shipped_files('get_config'):
    if f'--config={file}:' in PAGE:
      for variant in config_files.load_module(file).VARIANTS:
        assert f'--config={file}:{variant} ' in PAGE, f'docs/tpu.md lacks {file}:{variant}'


# The compiler itself.

ROWS = {row.config: row for row in table.TRAINING}
needs_libtpu = pytest.mark.skipif(
  importlib.util.find_spec('libtpu') is None, reason='needs libtpu: pip install -e ".[tpu]"'
)


def compiled(*flags, code=0):
  """The reports of a command, compiled as for users."""
  found, out, err = ended('compile', *flags, '--json', XLA_FLAGS='')
  assert found == code, err
  return [json.loads(line) for line in out.splitlines()]


@needs_libtpu
@pytest.mark.slow
def test_a_config_fits_as_the_page_says():
  row = ROWS['dit.py:S2']
  (found,) = compiled(*shlex.split(row.command)[2:])
  (shown,) = re.findall(rf'\| dit:S2 \| {row.topology} \| [^|]*\| \*\*([\d.]+)\*\* of ', PAGE)
  assert found['total'] / 2**30 == pytest.approx(float(shown), rel=0.01)
  assert found['fits'] and found['total'] <= found['limit']
  assert found['attention'] == ['splash'] and found['collectives']['all-reduce']['count'] > 0
  # In float32; the compiler pads small arrays.
  assert found['parameters'] == pytest.approx(4 * 32_957_840, rel=0.02)


@needs_libtpu
@pytest.mark.slow
def test_what_does_not_fit_has_the_compilers_figure_and_a_suggestion():
  """Both programs have the same attention: nothing of the first is left in the second."""
  flags = (
    *shlex.split(f'{table.BFLOAT16} {table.LATENTS}'),
    '--config=configs/papers/dit.py:S2',
    '--topology=v5e:1x1',
  )
  refused_one, found = compiled(*flags, '--suggest')
  assert not refused_one['fits'] and refused_one['total'] > refused_one['limit']
  assert found['flags'] == '--config.network.remat=true' and found['total'] <= found['limit']
  assert found['attention'] == ['splash'] and not found['collectives']


@needs_libtpu
@pytest.mark.slow
@pytest.mark.parametrize(
  ('flags', 'message'),
  [
    (('--config.parallel.data=3',), 'must be the number of devices, 16, got data=3'),
    (('--config.data.batch_size=24',), 'data.batch_size=24 must be a multiple of 16'),
    (('--config.network.width=9216',), 'what stays between calls alone needs'),
  ],
)
def test_a_config_that_does_not_suit_the_slice_is_refused(flags, message):
  row = [*shlex.split(ROWS['dit.py:XL2'].command)[2:], *flags]
  code, out, err = ended('compile', *row, XLA_FLAGS='')
  (line,) = [line for line in err.splitlines() if line.startswith('error: ')]
  assert code == 1 and not out and message in line
