"""Measures speed against peers on this machine, in turn and in one run, and prints ratios.

  python -m experiments.benchmark --suite=train,sample,decode,loop --out=docs/benchmarks.md

An absolute time means little on a shared machine: contenders take turns A B C A B C …, and the
ratio of medians is what to read. Peers come with the `peers` extra; without it ours run alone.
"""

import importlib.util
import json
import math
import pathlib
import statistics
import tempfile
import time
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from absl import flags, logging

from common import reporting, training
from common.config import pick
from common.data import pipeline
from common.data.spec import DataSpec
from common.files import atomic_write
from common.method import Request
from common.parallel import make_mesh
from configs.autoregressive import base as autoregressive_base
from configs.diffusion import base as diffusion_base
from experiments import cli, families, runs

SUITE = flags.DEFINE_list('suite', ['train', 'sample', 'decode', 'loop'], 'What to measure.')
SCALE = flags.DEFINE_enum('scale', 'default', ['default', 'smoke'], 'smoke: seconds, for tests.')
REPEATS = flags.DEFINE_integer('repeats', 5, 'Timed calls of each contender.', lower_bound=1)
OUT = flags.DEFINE_string('out', '', 'Markdown file for the table; the numbers go to FILE.json.')
PEERS = flags.DEFINE_bool('peers', True, 'Measure peers too, where they are installed.')


class Sizes(NamedTuple):
  """How large the models and batches of a benchmark are."""

  width: int = 192
  layers: int = 4
  heads: int = 6
  length: int = 256
  batch: int = 8
  image: int = 16
  unet_width: int = 64
  unet_blocks: int = 1
  unet_batch: int = 16
  draws: int = 64
  draw_steps: int = 50
  decode_batches: tuple[int, ...] = (1, 16)
  loop_steps: int = 300


SIZES = {
  'default': Sizes(),
  'smoke': Sizes(32, 1, 2, 16, 2, 16, 16, 1, 2, 2, 2, (2,), 40),
}


class Race(NamedTuple):
  """Contenders that do the same work, ours first.

  Attributes:
    name: what is measured.
    unit: of the rate.
    amount: units in one call.
    contenders: by name, calls that return once the work is done: None, or seconds by a clock of
      their own.
    note: what a reader must know: sizes, parameters.
  """

  name: str
  unit: str
  amount: float
  contenders: Mapping[str, Callable[[], float | None]]
  note: str


def main() -> None:
  sizes = SIZES[SCALE.value]
  peers = PEERS.value and all(
    importlib.util.find_spec(name) for name in ('torch', 'diffusers', 'transformers')
  )
  races = [race for name in SUITE.value for race in pick(SUITES, name, 'suite')(sizes, peers)]
  results = []
  for number, race in enumerate(races, 1):
    logging.info('[%d/%d] %s', number, len(races), race.name)
    results.append((race, run(race, REPEATS.value)))
  text = table(results, peers)
  print(text)
  if OUT.value:
    atomic_write(OUT.value, text)
    record = [
      dict(name=race.name, unit=race.unit, note=race.note, amount=race.amount, seconds=seconds)
      for race, seconds in results
    ]
    atomic_write(pathlib.Path(OUT.value).with_suffix('.json'), json.dumps(record, indent=2))


def run(race: Race, repeats: int) -> dict[str, list[float]]:
  """Seconds of each contender's calls, taken in turn after one call that is not counted."""
  alive, seconds = dict(race.contenders), {}
  for name, call in race.contenders.items():
    try:
      call()
    except Exception as error:  # torch.compile needs a compiler; a peer that fails is left out
      if name == OURS:
        raise
      logging.warning('%s: %s left out: %s', race.name, name, str(error).splitlines()[0])
      del alive[name]
  for _ in range(repeats):
    for name, call in alive.items():
      start = time.perf_counter()
      own = call()  # seconds by the contender's own clock, or None
      seconds.setdefault(name, []).append(own or time.perf_counter() - start)
  return seconds


OURS = 'twofold'


def table(results: list[tuple[Race, dict[str, list[float]]]], peers: bool) -> str:
  """The results as Markdown."""
  lines = [
    '# Benchmarks',
    '',
    'Contenders take turns in one process; a rate is that of the median call, its range that of',
    'the slowest and the fastest. The ratio is our median rate over the other’s: above 1, ours is',
    'the faster.',
    '',
    '| what | contender | rate | range | ratio |',
    '| --- | --- | ---: | ---: | ---: |',
  ]
  for race, seconds in results:
    ours = statistics.median(seconds[OURS])
    for name, times in seconds.items():
      middle, slow, fast = (race.amount / f(times) for f in (statistics.median, max, min))
      ratio = '' if name == OURS else f'{statistics.median(times) / ours:.2f}'
      what = f'{race.name} ({race.unit})' if name == OURS else ''
      lines.append(f'| {what} | {name} | {middle:.4g} | {slow:.4g} – {fast:.4g} | {ratio} |')
  lines += ['', *(f'- {race.name}: {race.note}' for race, _ in results)]
  if not peers:
    lines.append('- peers not installed: `pip install twofold[peers]`')
  facts = reporting.environment()
  lines += ['', '## Measured with', '', *(f'- {name}: {value}' for name, value in facts.items())]
  return '\n'.join(lines) + '\n'


def transformer_config(sizes: Sizes) -> dict:
  """A GPT-2 over raster pixels of square images, as many as `length`."""
  config = autoregressive_base.get_base()
  config.network.update(width=sizes.width, layers=sizes.layers, heads=sizes.heads)
  config.model.update(tied=True, start='token')
  config.data.batch_size = sizes.batch
  return config.to_dict()


def unet_config(sizes: Sizes) -> dict:
  """DDPM's U-Net with two resolutions, attention at the lower one, predicting the noise."""
  config = diffusion_base.get_base()
  config.network = diffusion_base.NETWORKS['unet'] | dict(
    width=sizes.unet_width, multipliers=(1, 2), blocks=sizes.unet_blocks,
    attention=(sizes.image // 2,), dropout=0.0,
  )  # fmt: skip
  config.process = diffusion_base.PROCESSES['ddpm']
  config.prediction.update(target='eps', noise='time')
  config.data.batch_size = sizes.unet_batch
  return config.to_dict()


def token_spec(sizes: Sizes) -> DataSpec:
  """Square grey images of `length` pixels."""
  side = math.isqrt(sizes.length)
  return DataSpec('pixels', 'image', (side, side, 1), 256, num_train=1024)


def image_spec(sizes: Sizes) -> DataSpec:
  """Square colour images."""
  return DataSpec('images', 'image', (sizes.image, sizes.image, 3), 256, num_train=1024)


class Arrays(NamedTuple):
  """A source of images held in memory."""

  x: np.ndarray

  def __len__(self) -> int:
    return len(self.x)

  def gather(self, indices: np.ndarray) -> dict[str, np.ndarray]:
    """The examples at `indices`."""
    return {'x': np.take(self.x, indices, axis=0)}


def random_data(spec: DataSpec) -> pipeline.Data:
  """Random images, in memory."""
  x = np.random.default_rng(0).integers(0, spec.levels, (spec.num_train, *spec.shape), np.uint8)
  return pipeline.Data(spec, dict.fromkeys(('train', 'validation', 'test'), Arrays(x)))


class Bare(NamedTuple):
  """A compiled training step, its state held by the caller, and its number of parameters."""

  call: Callable[[], Any]
  parameters: int
  batch: Mapping[str, np.ndarray]


def bare_step(config: dict, spec: DataSpec, steps: int = 1) -> Bare:
  """A call that takes `steps` optimiser steps on one batch that stays where it is."""
  method = families.build(config, spec)
  setup = training.set_up(config, method, spec, make_mesh(config['parallel']))
  holder = [setup.place.put_state(setup.initial)]
  number = sum(leaf.size for leaf in jax.tree.leaves(holder[0].params))
  batch = next(
    pipeline.train_batches(
      random_data(spec), seed=0, batch_size=config['data']['batch_size'], chunks=[(0, steps)]
    )
  )
  placed = setup.place.put_batch(batch)

  def call():
    holder[0], metrics = setup.place.run(holder[0], placed)
    jax.block_until_ready((holder[0].step, metrics))

  return Bare(call, number, batch)


def train_suite(sizes: Sizes, peers: bool) -> list[Race]:
  """Training steps of the transformer and of the U-Net."""
  ours = bare_step(transformer_config(sizes), token_spec(sizes))
  theirs = bare_step(unet_config(sizes), image_spec(sizes))
  text, image = {OURS: ours.call}, {OURS: theirs.call}
  notes = [f'{ours.parameters:,} parameters', f'{theirs.parameters:,} parameters']
  if peers:
    from experiments import peers as torch_peers

    tokens = ours.batch['x'][0].reshape(sizes.batch, -1)
    pixels = theirs.batch['x'][0].transpose(0, 3, 1, 2).astype(np.float32) / 127.5 - 1
    for compiled, name in ((False, 'PyTorch, eager'), (True, 'PyTorch, compiled')):
      gpt2, unet = _torch_gpt2(torch_peers, sizes), _torch_unet(torch_peers, sizes)
      text[name] = torch_peers.train_gpt2(gpt2, tokens, compiled)
      image[name] = torch_peers.train_unet(unet, pixels, compiled)
    notes[0] += f', of the peer {torch_peers.parameters(gpt2):,}'
    notes[1] += f', of the peer {torch_peers.parameters(unet):,}'
  return [
    Race('training step, transformer', 'tokens/s', sizes.batch * sizes.length, text, notes[0]),
    Race('training step, U-Net', 'images/s', sizes.unet_batch, image, notes[1]),
  ]


def sample_suite(sizes: Sizes, peers: bool) -> list[Race]:
  """DDIM sampling with the U-Net."""
  spec = image_spec(sizes)
  config = unet_config(sizes)
  config['sampling'] |= dict(sampler=dict(name='ddim', eta=0.0), steps=sizes.draw_steps)
  method = families.build(config, spec)
  params, _ = jax.jit(method.init)(jax.random.key(0), _zeros(spec))
  request = Request(sizes.draws)
  contenders = {OURS: _sampler(method, params, request)}
  if peers:
    from experiments import peers as torch_peers

    unet = _torch_unet(torch_peers, sizes)
    contenders['diffusers DDIMPipeline'] = torch_peers.sample_ddim(
      unet, sizes.draws, sizes.draw_steps
    )
  name = f'DDIM, {sizes.draw_steps} steps, {sizes.draws} images at once'
  return [Race(name, 'images/s', sizes.draws, contenders, f'the U-Net of {spec.shape} images')]


def decode_suite(sizes: Sizes, peers: bool) -> list[Race]:
  """Sampling tokens one by one with a cache."""
  spec = token_spec(sizes)
  method = families.build(transformer_config(sizes), spec)
  params, _ = jax.jit(method.init)(jax.random.key(0), _zeros(spec))
  races = []
  for batch in sizes.decode_batches:
    contenders = {OURS: _sampler(method, params, Request(batch))}
    if peers:
      from experiments import peers as torch_peers

      gpt2 = _torch_gpt2(torch_peers, sizes, extra=1)
      contenders['transformers generate'] = torch_peers.generate(gpt2, batch, sizes.length)
    name = f'decoding {sizes.length} tokens, batch {batch}'
    races.append(Race(name, 'tokens/s', batch * sizes.length, contenders, 'cached, temperature 1'))
  return races


def loop_suite(sizes: Sizes, peers: bool) -> list[Race]:
  """What the loop costs: a run with its data, metrics and logs, against its step alone."""
  del peers
  config = transformer_config(sizes)
  steps, per_call = sizes.loop_steps, 10
  config['train'] |= dict(
    steps=str(steps),
    steps_per_call=per_call,
    log_every='10%',
    evaluate_every='0',
    sample_every='0',
    checkpoint_every='0',
  )
  config['network'] |= dict(width=sizes.width // 2)
  config['data']['batch_size'] = 4
  spec = token_spec(sizes)
  bare = bare_step(config, spec, per_call)
  timed = steps - per_call  # the run's own clock leaves its first call out

  def whole() -> float:
    method = families.build(config, spec)
    setup = training.set_up(config, method, spec, make_mesh(config['parallel']))
    with tempfile.TemporaryDirectory() as folder:
      workdir = pathlib.Path(folder)
      training.train(config, method, random_data(spec), setup, workdir)
      return runs.training_seconds(workdir)

  def alone() -> float:
    start = time.perf_counter()
    for _ in range(timed // per_call):
      bare.call()
    return time.perf_counter() - start

  return [Race('the loop', 'steps/s', timed, {OURS: whole, 'step alone': alone}, LOOP)]


LOOP = 'a run with data, metrics, logs and TensorBoard, against its compiled call alone'


def _torch_gpt2(torch_peers, sizes: Sizes, extra: int = 0):
  return torch_peers.gpt2(256, sizes.length + extra, sizes.width, sizes.layers, sizes.heads)


def _torch_unet(torch_peers, sizes: Sizes):
  return torch_peers.unet(sizes.image, sizes.unet_width, sizes.unet_blocks)


def _sampler(method, params, request: Request) -> Callable[[], None]:
  def draw() -> None:
    jax.block_until_ready(method.sample(params, jax.random.key(0), request).x)

  return draw


def _zeros(spec: DataSpec) -> dict[str, jax.Array]:
  return {k: jnp.zeros(v.shape, v.dtype) for k, v in spec.batch_struct(1).items()}


SUITES = {
  'train': train_suite,
  'sample': sample_suite,
  'decode': decode_suite,
  'loop': loop_suite,
}

if __name__ == '__main__':
  cli.run(main)
