"""The benchmark command, at a size too small to measure speed."""

import importlib.util
import json
import os
import re
import time

import jax
import pytest

from experiments import families
from experiments.benchmarks import SUITES, gpu, isolated, race
from experiments.benchmarks.isolated import OUT_OF_MEMORY, Options, Result
from tests.cases import mostly_slow
from tests.experiments.commands import refused, run

SMALL = ('--scale=smoke', '--repeats=1')


@pytest.mark.slow
def test_every_suite_without_peers(tmp_path):
  out = tmp_path / 'benchmarks.md'
  suites = ','.join(name for name in SUITES if name != 'recurrent')  # which runs with peers, below
  printed = run('benchmark', *SMALL, '--nopeers', f'--suite={suites}', f'--out={out}')
  record = json.loads(out.with_suffix('.json').read_text())
  names = ['training step, transformer', 'training step, U-Net', 'DDIM', 'network evaluations']
  names += ['likelihood', 'decoding', 'a decoded token', 'PixelCNN++', 'the loop']
  assert [next(n for n in names if r['name'].startswith(n)) for r in record] == names
  assert all(s > 0 for r in record for times in r['seconds'].values() for s in times)
  assert 'peers not installed' in printed and 'Model FLOPs utilisation' in out.read_text()


@pytest.mark.peers
def test_peers_have_the_same_number_of_parameters(tmp_path):
  for name in ('torch', 'diffusers', 'transformers'):
    if importlib.util.find_spec(name) is None:
      pytest.skip(f'{name} is not installed')
  # torch.compile would take most of the time; peers of the GPU suite are compiled, below.
  printed = run('benchmark', *SMALL, '--suite=train,recurrent', TORCHDYNAMO_DISABLE='1')
  notes = [line.split('batch ')[1] for line in printed.splitlines() if 'of the peer' in line]
  numbers = [[int(n.replace(',', '')) for n in re.findall(r'[\d,]*\d', note)[1:]] for note in notes]
  more = [theirs - ours for ours, theirs in numbers]
  width = race.SIZES['smoke'].recurrent.width
  # PyTorch's cells have a second bias for each gate; our GRU has one for its candidate.
  assert more == [0, 0, 4 * width, 2 * width, width]


def test_an_unknown_suite():
  assert "unknown suite 'training'; did you mean 'train'" in refused(
    'benchmark', '--suite=training'
  )


DRY = Options(repeats=1, dry=True, peers=False, budget=300.0)
FULL = Options(repeats=5, dry=False, peers=True, budget=480.0)
H100 = 'NVIDIA H100 80GB HBM3'
OURS = [(name, contender) for name, row in gpu.ROWS.items() for contender in row.ours]
# The peers that compile within a minute on a CPU; docs/benchmarks_gpu.md has the command for all.
PEERS = [(name, contender) for name in ('gpt2', 'decode1') for contender in gpu.ROWS[name].peers]


def dry_run(name, contender):
  batch = gpu.ROWS[name].sizes(dry=True)[0]
  return Result(name, contender, batch, **isolated.measure(name, contender, batch, DRY))


@pytest.mark.parametrize(('name', 'contender'), mostly_slow(OURS, [('decode1', 'twofold')]))
def test_every_row_of_the_gpu_suite_compiles_and_runs(name, contender):
  result = dry_run(name, contender)
  assert result.rate > 0
  assert bool(result.flops) == gpu.ROWS[name].title.startswith('training,')
  assert bool(result.bytes) == name.startswith('decode')


SIZES = {'gpt2': 124e6, 'dit_xl2': 675e6, 'dit_b2': 130e6, 'unet': 55.7e6}


def parameters_at_full_size(name):
  row = gpu.ROWS[name]
  config, spec = row.config_of(row.batches[0], dry=False), row.spec_of(dry=False)
  init = families.build(config, spec).init
  params, _ = jax.eval_shape(init, jax.random.key(0), spec.batch_struct(1))
  return config, spec, sum(leaf.size for leaf in jax.tree.leaves(params))


@pytest.mark.parametrize('name', SIZES)
def test_rows_of_the_gpu_suite_have_the_published_sizes(name):
  config, _, parameters = parameters_at_full_size(name)
  assert parameters == pytest.approx(SIZES[name], rel=0.01)
  assert config['precision'] == 'bfloat16' and config['train']['micro_batches'] == 1


@pytest.mark.peers
def test_peers_of_the_gpu_suite_have_the_sizes_of_ours():
  torch = pytest.importorskip('torch')
  pytest.importorskip('diffusers')
  from experiments.benchmarks import peers_gpu

  makers = {'gpt2': peers_gpu.gpt, 'dit_xl2': peers_gpu.dit, 'dit_b2': peers_gpu.dit}
  for name, tolerance in {**dict.fromkeys(makers, 0.005), 'unet': 0.1}.items():
    config, spec, ours = parameters_at_full_size(name)
    with torch.device('meta'):  # shapes only
      model = makers.get(name, peers_gpu.unet)(config, spec)
    theirs = sum(p.numel() for p in model.parameters())
    assert theirs == pytest.approx(ours, rel=tolerance), name


@pytest.mark.peers
@pytest.mark.parametrize(('name', 'contender'), PEERS)
def test_every_peer_of_the_gpu_suite_compiles_and_runs(name, contender):
  for package in ('torch', 'diffusers', 'transformers'):
    pytest.importorskip(package)
  assert dry_run(name, contender).rate > 0


@pytest.mark.slow
def test_the_gpu_suite_writes_its_table(tmp_path):
  out = tmp_path / 'gpu.md'
  flags = ('--suite=gpu', '--nopeers', '--rows=decode1', f'--out={out}')
  run('benchmark', *flags, '--dry_run', '--repeats=1')
  assert 'Nothing was measured' in out.read_text() and '| twofold | 1 | ran |' in out.read_text()
  record = json.loads(out.with_suffix('.json').read_text())
  assert record['results'][0]['seconds'] and record['facts']['devices'].endswith('cpu')
  assert 'needs a GPU, and JAX sees' in refused('benchmark', *flags)


def test_flags_of_the_gpu_suite():
  assert 'runs alone' in refused('benchmark', '--suite=gpu,train')
  assert '--dry_run is for --suite=gpu only' in refused('benchmark', '--suite=loop', '--dry_run')
  assert "unknown --rows 'gtp2'; did you mean 'gpt2'" in refused(
    'benchmark', '--suite=gpu', '--rows=gtp2'
  )


def fail(how):
  """Ends a process in one of several ways."""
  if how == 'memory':
    raise RuntimeError('RESOURCE_EXHAUSTED: Out of memory while trying to allocate 9 bytes.')
  if how == 'import':
    import a_peer_that_nobody_has  # noqa: F401
  if how == 'sleep':
    time.sleep(60)
  os._exit(3)


@pytest.mark.slow
def test_what_fails_in_a_process_is_one_line():
  reasons = [
    isolated.in_process(fail, (how,), 1 if how == 'sleep' else 60)
    for how in ('memory', 'import', 'exit', 'sleep')
  ]
  assert reasons == [
    ({}, OUT_OF_MEMORY),
    ({}, 'not installed: a_peer_that_nobody_has'),
    ({}, 'its process ended with code 3'),
    ({}, 'stopped after 1 s'),
  ]


@pytest.mark.parametrize(('fits', 'tried'), [(64, [64]), (20, [64, 32, 16]), (8, [64, 32, 16])])
def test_the_largest_batch_that_fits_is_measured(fits, tried):
  seen = []

  def attempt(batch):
    seen.append(batch)
    return Result('gpt2', 'twofold', batch, failure='' if batch <= fits else OUT_OF_MEMORY)

  result = isolated.first_that_fits((64, 32, 16), attempt)
  assert seen == tried and result.batch == tried[-1] and bool(result.failure) == (fits < 16)


def test_timed_calls_end_when_they_are_enough():
  assert list(isolated.repetitions(5, [0.1])) == [0, 1, 2, 3, 4]
  assert list(isolated.repetitions(5, [60.0])) == [0, 1]


@pytest.mark.parametrize(('batch', 'tokens'), [(16, 97e3), (64, 147e3)])
def test_bytes_of_decoding_give_the_known_bound(batch, tokens):
  """GPT-2 124M on an H100 with 512 positions in the cache: 97 and 147 thousand tokens/s."""
  network, mean = dict(layers=12, width=768), 512
  read = gpu.decoding_bytes(12 * 12 * 768**2 + 50_257 * 768, network, batch, 2 * mean - 1)
  assert batch * (2 * mean - 1) * 3.35e12 / read == pytest.approx(tokens, rel=0.01)


def test_the_table_of_the_gpu_suite():
  """Rates, ratios and utilisation by hand; what failed is a line, and compares with nothing."""
  facts = dict.fromkeys(('devices', 'machine', 'date', 'versions', 'peers'), '?') | {'kind': H100}
  whole = dict(units=1000.0, parameters=5, peak_memory=2**31)
  results = [
    Result('gpt2', 'twofold', 64, (2.0, 1.0, 9.0), flops=2 * 98.94e12, **whole),
    Result('gpt2', 'PyTorch, compiled', 32, (4.0,), **whole),
    Result('dit_b2', 'twofold', 128, failure=OUT_OF_MEMORY),
    Result('dit_b2', 'PyTorch, compiled', 256, (1.0,), **whole),
    Result('decode1', 'twofold', 1, (1.0,), bytes=0.335e12, **whole),
  ]
  lines = isolated.table(facts, results, FULL).splitlines()
  cells = [line.split(' | ', 1)[1] for line in lines if line.startswith('| ')][2:]
  assert cells == [
    'twofold | 64 | 500 |  | MFU 10.0% | 2.0 GiB | 5 | ≥ 1.0×, MFU ≥ 40 % |',
    'PyTorch, compiled | 32 | 250 | 2 | MFU 5.0% | 2.0 GiB | 5 |  |',
    'twofold | 1 | 1000 |  | MBU 10.0% | 2.0 GiB | 5 | ≥ 5× |',
    'twofold | 128 | out of memory |  |  |  |  | ≥ 1.0× |',
    'PyTorch, compiled | 256 | 1000 |  |  | 2.0 GiB | 5 |  |',
  ]
