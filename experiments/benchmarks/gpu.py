"""The rows of the GPU suite: published models at full size, in bfloat16, on one card.

Each row names a config of configs/papers/, the sizes that a dry run replaces, and its contenders.
A contender is a function of (config, spec) that builds its `Work`; those in PyTorch are in
peers_gpu.py. docs/benchmarks_gpu.md says what is measured and why.
"""

import functools
import math
import pathlib
import tempfile
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import numpy as np

from common.config import merge
from common.data import pipeline
from common.data.spec import DataSpec
from common.devices import limits
from common.method import Request
from experiments import families
from experiments.benchmarks import diffusion
from experiments.benchmarks.loop import timed_calls, timed_run
from experiments.benchmarks.race import OURS, BareStep, perturbed_params, sampler

STEPS = 5  # optimiser steps in one call
# With bfloat16, a smaller tolerance would make an adaptive solver follow rounding errors.
TOLERANCE = 1e-3


class Work(NamedTuple):
  """The work of a contender, ready to be timed.

  Attributes:
    call: does the work once and returns when it is done: None, or its seconds if it measures them
      itself. The first call compiles.
    units: units of work in a call.
    parameters: of the model.
    flops: model FLOPs of a call; 0: not counted.
    bytes: bytes that a call has to read from memory; 0: not counted.
    peak_memory: the most bytes in use so far; None where the device does not tell.
  """

  call: Callable[[], float | None]
  units: float
  parameters: int
  flops: float = 0.0
  bytes: float = 0.0
  peak_memory: Callable[[], int | None] = limits.peak_memory


Contender = Callable[[dict, DataSpec], Work]


class Row(NamedTuple):
  """Contenders that do the same work.

  Attributes:
    title: the work.
    unit: the unit of its rate.
    aim: what the project wants to reach.
    kind: the contenders of PyTorch for it, with `peers` a key of `peers_gpu.CONTENDERS`.
    config: FILE:variant.
    spec, small: the data, at full size and for a dry run.
    batches: sizes of the batch, the largest first; the first that fits is measured.
    ours: contenders of our own code. Ratios compare with the first.
    peers: names of those in PyTorch.
    changes: settings that differ from the config's.
  """

  title: str
  unit: str
  aim: str
  kind: str
  config: str
  spec: DataSpec
  small: DataSpec
  batches: tuple[int, ...]
  ours: Mapping[str, Contender]
  peers: tuple[str, ...] = ()
  changes: Mapping[str, Any] = {}

  def names(self, peers: bool) -> tuple[str, ...]:
    """The names of the contenders, our own first."""
    return (*self.ours, *(self.peers if peers else ()))

  def sizes(self, dry: bool) -> tuple[int, ...]:
    """The batches to try."""
    return (min(2, self.batches[-1]),) if dry else self.batches

  def spec_of(self, dry: bool) -> DataSpec:
    """The data."""
    return self.small if dry else self.spec

  def config_of(self, batch: int, dry: bool) -> dict:
    """The complete config for a size of the batch."""
    config = merge(families.load_config(self.config, {}), COMMON, self.changes)
    config = merge(config, {'data': {'batch_size': batch}}, SMALL[self.config] if dry else {})
    return families.complete(config, strict=True)


def train(config: dict, spec: DataSpec) -> Work:
  """Optimiser steps on one batch that stays on the card."""
  step = BareStep(config, spec, STEPS)
  units, flops = STEPS * step.work.units, STEPS * step.work.flops
  return Work(step, units, step.parameters, flops=flops)


def sample(config: dict, spec: DataSpec) -> Work:
  """Images, of which the whole batch is drawn at once."""
  method, num = families.build(config, spec), config['data']['batch_size']
  params = perturbed_params(method, spec)
  return Work(sampler(method, params, Request(num)), num, _count(params))


def decode(config: dict, spec: DataSpec) -> Work:
  """Tokens after a given one, with a cache."""
  method, num = families.build(config, spec), config['data']['batch_size']
  tokens = spec.num_dims - 1  # the first is given
  params = perturbed_params(method, spec)
  draw = sampler(method, params, Request(num, past=np.zeros((num, 1), np.int32)))
  parameters = _count(params)
  read = decoding_bytes(parameters, config['network'], num, tokens)
  return Work(draw, num * tokens, parameters, bytes=read)


def decoding_bytes(parameters: int, network: Mapping[str, Any], batch: int, tokens: int) -> float:
  """Bytes that decoding has to read in bfloat16: for each token all weights and the cache so far.

  The cache has keys and values of the positions before a token and of its own, (tokens + 1) / 2 in
  the mean.
  """
  cache = 2 * 2 * network['layers'] * network['width'] * (tokens + 1) / 2
  return tokens * (2 * parameters + batch * cache)


def flow_on_device(config: dict, spec: DataSpec) -> Work:
  """Likelihoods by the probability flow, in one program."""
  return _likelihood(diffusion.flow_on_device, config, spec)


def flow_on_host(config: dict, spec: DataSpec) -> Work:
  """The same with SciPy's solver, which calls drift and divergence apart."""
  return _likelihood(diffusion.flow_on_host, config, spec)


def _likelihood(flow: Callable, config: dict, spec: DataSpec) -> Work:
  num = config['data']['batch_size']
  shapes, _ = jax.eval_shape(
    families.build(config, spec).init, jax.random.key(0), spec.batch_struct(1)
  )
  return Work(flow(config, spec, num, TOLERANCE), num, _count(shapes))


def bare_step(config: dict, spec: DataSpec) -> Work:
  """Only the compiled calls of a run."""
  per_call, timed = config['train']['steps_per_call'], _timed_steps(config)
  step = BareStep(config, spec, per_call)
  return Work(functools.partial(timed_calls, step, timed // per_call), timed, step.parameters)


def whole_run(in_memory: bool, config: dict, spec: DataSpec) -> Work:
  """A run with data, metrics and logs; its clock leaves out the first call, which compiles."""
  call = functools.partial(_run, in_memory, config, spec)
  return Work(call, _timed_steps(config), 0)


def _timed_steps(config: dict) -> int:
  return int(config['train']['steps']) - config['train']['steps_per_call']


def _run(in_memory: bool, config: dict, spec: DataSpec) -> float:
  """Seconds in the training steps of a run on a dataset that is prepared first."""
  rng = np.random.default_rng(0)
  with tempfile.TemporaryDirectory() as folder:
    path = pathlib.Path(folder) / 'latents.npz'
    latents = rng.standard_normal((spec.num_train, *spec.shape), np.float32)
    np.savez(path, latents=latents, y=np.arange(spec.num_train) % spec.num_classes)
    settings = config['data'] | dict(source=str(path), dir=folder)
    data = pipeline.load(settings, in_memory)
    return timed_run(config | {'data': settings}, data)


def _count(params: Any) -> int:
  return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(params))


GPT2, DIT_XL, DIT_B = 'papers/nanogpt:gpt2', 'papers/dit:XL2', 'papers/dit:B2'
EDM = 'papers/edm:uncond_vp'
# Given to every config. Of the papers' own settings, only what costs time differently in a peer
# changes: no augmentation.
COMMON = dict(precision='bfloat16', train=dict(micro_batches=1))
NO_AUGMENTATION = dict(augmentation=dict(probability=0.0))
DDIM_50 = dict(sampling=dict(sampler=dict(name='ddim'), steps=50))
HEUN_18 = dict(sampling=dict(sampler=dict(name='heun'), steps=18))
LOOP = dict(
  train=dict(
    steps='110',
    steps_per_call=10,
    log_every='10%',
    evaluate_every='0',
    sample_every='0',
    checkpoint_every='0',
  )
)
SMALL_DIT = dict(network=dict(width=32, depth=2, heads=2), train=dict(steps='20'))
SMALL = {  # settings of a dry run, by config
  GPT2: dict(network=dict(width=32, layers=1, heads=2)),
  DIT_XL: SMALL_DIT,
  DIT_B: SMALL_DIT,
  EDM: dict(
    network=dict(width=16, blocks=1, multipliers=(1,), attention=(8,)), sampling=dict(steps=4)
  ),
}


def text_spec(tokens: int, vocabulary: int) -> DataSpec:
  """Windows of text: a given token, and `tokens` after it."""
  return DataSpec('tokens', 'text', (tokens + 1,), vocabulary, num_train=256)


TEXT, SMALL_TEXT = text_spec(1024, 50_257), text_spec(16, 100)
SHORT_TEXT = text_spec(512, 50_257)
LATENT = DataSpec('latents', 'image', (32, 32, 4), 0, 1000, num_train=2048)
SMALL_LATENT = DataSpec('latents', 'image', (8, 8, 4), 0, 10, num_train=64)
CIFAR = DataSpec('cifar', 'image', (32, 32, 3), 256, num_train=1024)
SMALL_CIFAR = DataSpec('cifar', 'image', (8, 8, 3), 256, num_train=16)

COMPILED = 'PyTorch, compiled'


def _training(title: str, aim: str, kind: str, config: str, *rest: Any, **settings: Any) -> Row:
  """A row of training steps."""
  unit = 'tokens/s' if kind == 'gpt2' else 'images/s'
  return Row(
    f'training, {title}', unit, aim, kind, config, *rest, {OURS: train}, (COMPILED,), **settings
  )


def _sampling(title: str, peer: str, changes: Mapping[str, Any]) -> Row:
  """A row of sampling with the U-Net."""
  return Row(
    f'{title}, 256 images, the U-Net of DDPM++',
    'images/s',
    '≥ 2× diffusers',
    'unet',
    EDM,
    CIFAR,
    SMALL_CIFAR,
    (256,),
    {OURS: sample},
    (peer,),
    changes,
  )


def _decoding(batch: int, aim: str) -> Row:
  """A row of decoding."""
  return Row(
    f'decoding, GPT-2 124M, 512 tokens, batch {batch}',
    'tokens/s',
    aim,
    'gpt2',
    GPT2,
    SHORT_TEXT,
    SMALL_TEXT,
    (batch,),
    {OURS: decode},
    ('transformers generate, static cache', 'transformers generate'),
  )


# The most important first: a run stops at its budget.
ROWS: Mapping[str, Row] = {
  'gpt2': _training(
    'GPT-2 124M, 1,024 tokens', '≥ 1.0×, MFU ≥ 40 %', 'gpt2', GPT2, TEXT, SMALL_TEXT, (64, 32, 16)
  ),
  'dit_xl2': _training(
    'DiT-XL/2, latents 32×32×4', '≥ 1.0×, ≥ 340 images/s', 'dit',
    *(DIT_XL, LATENT, SMALL_LATENT, (128, 64, 32)),
  ),
  'unet': _training(
    'DDPM++ 55.7M, CIFAR-10', '≥ 1.0×', 'unet',
    *(EDM, CIFAR, SMALL_CIFAR, (256, 128, 64)), changes=NO_AUGMENTATION,
  ),
  'decode1': _decoding(1, '≥ 5×'),
  'decode64': _decoding(64, '≥ 2×, MBU ≥ 30 %'),
  'decode16': _decoding(16, '≥ 3×'),
  'ddim': _sampling('DDIM, 50 steps', 'diffusers DDIMPipeline', DDIM_50),
  'dit_b2': _training(
    'DiT-B/2, latents 32×32×4', '≥ 1.0×', 'dit', *(DIT_B, LATENT, SMALL_LATENT, (256, 128))
  ),
  'heun': _sampling('Heun, 18 steps', 'diffusers HeunDiscreteScheduler', HEUN_18),
  'likelihood': Row(
    'likelihood of 64 images, probability flow', 'images/s', '≥ 5×', 'unet',
    *(EDM, CIFAR, SMALL_CIFAR, (64,)),
    {OURS: flow_on_device, 'drift and divergence apart, SciPy on the host': flow_on_host},
  ),
  'loop': Row(
    'the training loop, DiT-B/2', 'steps/s', '≤ 1.01×', 'dit',
    *(DIT_B, LATENT, SMALL_LATENT, (128,)),
    {
      'bare step': bare_step,
      'twofold, data in memory': functools.partial(whole_run, True),
      'twofold, data on disk': functools.partial(whole_run, False),
    },
    changes=LOOP,
  ),
}  # fmt: skip
