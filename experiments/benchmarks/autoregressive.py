"""Races of the autoregressive family: training, recurrent networks, decoding, PixelCNN++."""

import functools

import jax
import jax.numpy as jnp

from common.method import Request
from configs.autoregressive import base
from experiments import families
from experiments.benchmarks.race import (
  OURS,
  Race,
  RecurrentSizes,
  Sizes,
  TransformerSizes,
  per_unit,
  perturbed_params,
  sampler,
  square_images,
  training_steps,
  wait_for,
)


def config_of(sizes: TransformerSizes) -> dict:
  """A GPT-2 over the pixels of square images in raster order."""
  config = base.get_base()
  config.network.update(width=sizes.width, layers=sizes.layers, heads=sizes.heads)
  config.model.update(tied=True, start='token')
  config.data.batch_size = sizes.batch
  return families.complete(config)


def train(sizes: Sizes, peers: bool) -> list[Race]:
  """Training steps of transformers."""
  return [_train(name, one, peers) for name, one in sizes.transformers.items()]


def _train(name: str, sizes: TransformerSizes, peers: bool) -> Race:
  ours, contenders = training_steps(config_of(sizes), square_images(sizes.length))
  note = (
    f'{sizes.layers} layers, {sizes.width} wide, {sizes.heads} heads, {sizes.length} tokens, batch '
    f'{sizes.batch}: {ours.parameters:,} parameters'
  )
  if peers:
    from experiments.benchmarks import peers as torch_peers

    tokens = ours.batch['x'][0].reshape(sizes.batch, -1)
    for compiled, peer in ((False, 'PyTorch, eager'), (True, 'PyTorch, compiled')):
      gpt2 = _torch_gpt2(sizes)
      contenders[peer] = torch_peers.train_gpt2(gpt2, tokens, compiled)
    note += f', of the peer {torch_peers.parameters(gpt2):,}'
  # Per token, forward and backward: 6 FLOPs for each parameter, and 12 · width · length in each
  # layer for attention's two products over the sequence (Chowdhery et al. 2022, PaLM, appendix B).
  flops = 6 * ours.parameters + 12 * sizes.layers * sizes.width * sizes.length
  return Race(
    f'training step, transformer, {name}',
    'tokens/s',
    sizes.batch * sizes.length,
    contenders,
    note,
    ('PyTorch, compiled',),
    flops,
  )


def recurrent(sizes: Sizes, peers: bool) -> list[Race]:
  """Training steps of recurrent networks."""
  return [_train_recurrent(name, sizes.recurrent, peers) for name in ('lstm', 'gru', 'rnn')]


def _train_recurrent(name: str, sizes: RecurrentSizes, peers: bool) -> Race:
  config = base.get_base()
  config.network = dict(name=name, width=sizes.width, layers=sizes.layers)
  config.model.update(start='token')
  config.data.batch_size = sizes.batch
  spec = square_images(sizes.length)
  ours, contenders = training_steps(families.complete(config), spec)
  note = (
    f'{sizes.layers} layers, {sizes.width} wide, {sizes.length} tokens, batch {sizes.batch}: '
    f'{ours.parameters:,} parameters'
  )
  if peers:
    from experiments.benchmarks import peers as torch_peers

    peer = torch_peers.Recurrent(name, spec.levels, sizes.width, sizes.layers)
    tokens = ours.batch['x'][0].reshape(sizes.batch, -1)
    contenders['PyTorch, eager'] = torch_peers.train_recurrent(peer, tokens)
    note += f', of the peer, with two biases for each gate, {torch_peers.parameters(peer):,}'
  work = f'training step, {name.upper()}'
  return Race(work, 'tokens/s', sizes.batch * sizes.length, contenders, note)


def _torch_gpt2(sizes: TransformerSizes, extra: int = 0):
  from experiments.benchmarks import peers as torch_peers

  return torch_peers.gpt2(256, sizes.length + extra, sizes.width, sizes.layers, sizes.heads)


def decode(sizes: Sizes, peers: bool) -> list[Race]:
  """Sampling one token at a time with a cache."""
  one = sizes.transformers['default']
  spec = square_images(one.length)
  method = families.build(config_of(one), spec)
  params = perturbed_params(method, spec)
  races = []
  for batch in sizes.decode_batches:
    contenders = {OURS: sampler(method, params, Request(batch))}
    if peers:
      from experiments.benchmarks import peers as torch_peers

      gpt2 = _torch_gpt2(one, extra=1)
      contenders['transformers generate'] = torch_peers.generate(gpt2, batch, one.length)
    name = f'decoding {one.length} tokens, batch {batch}'
    races.append(Race(name, 'tokens/s', batch * one.length, contenders, 'cached, temperature 1'))
  return [*races, context(sizes)]


def context(sizes: Sizes) -> Race:
  """The time per decoded token for different sequence lengths."""
  one = sizes.transformers['default']
  contenders = {}
  for length in sizes.contexts:
    spec = square_images(length)
    method = families.build(config_of(one._replace(length=length)), spec)
    draw = sampler(method, perturbed_params(method, spec), Request(1))
    contenders[f'{length} tokens'] = per_unit(draw, length)
  note = 'mean over all positions, batch 1; attention reads the whole cache for every token'
  return Race('a decoded token, by sequence length', 'tokens/s', 1, contenders, note)


def pixelcnn(sizes: Sizes, peers: bool) -> list[Race]:
  """PixelCNN++: one cached step per pixel against one full pass per pixel."""
  del peers
  spec = square_images(sizes.pixels**2)
  config = base.get_base()
  config.network = dict(name='pixelcnn_pp', width=24, blocks=1, levels=2)
  config.head = dict(name='logistic_mixture')
  config = families.complete(config)
  method = families.build(config, spec)
  params = perturbed_params(method, spec)
  request = Request(sizes.decode_batches[-1])
  contenders = {
    OURS: sampler(method, params, request),
    'a full pass per pixel': _full_passes(config, spec, params, request.num),
  }
  note = f'{sizes.pixels}×{sizes.pixels} pixels, width 24, batch {request.num}'
  return [Race('PixelCNN++ samples', 'images/s', request.num, contenders, note)]


def _full_passes(config: dict, spec, params, batch: int):
  """A call that runs the whole network again for each pixel."""
  from autoregressive.method import build_model

  ordering, model = build_model(config, spec)

  @jax.jit
  def draw(params, key):
    def body(i, emissions):
      # No cache: everything is computed again, and only position i is used.
      outputs = model.apply({'params': params}, emissions)
      keys = jax.random.split(jax.random.fold_in(key, i), batch)
      new = jax.vmap(model.head.sample)(outputs[:, i], keys)
      return emissions.at[:, i].set(new)

    empty = jnp.zeros((batch, ordering.length, ordering.values), jnp.int32)
    return jax.lax.fori_loop(0, ordering.length, body, empty)

  return functools.partial(wait_for, draw, params, jax.random.key(0))
