"""The loss in chunks of positions against the loss of the whole batch at once."""

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from autoregressive.chunks import MAX_OUTPUTS, chunk_count
from autoregressive.method import build
from common.method import Context
from common.training.parallel import make_mesh
from tests.autoregressive import series
from tests.autoregressive.common import DIGITS, images, perturbed, small_config
from tests.autoregressive.texts import WINDOWS, text_config, windows
from tests.cases import mostly_slow, slow
from tests.jaxprs import equations

REGULARIZERS = dict(objective__z_loss=0.01, objective__label_smoothing=0.1)
SMALL = dict(network__width=16, network__layers=1)
CASES = {
  'text': (WINDOWS, windows(8), lambda **k: text_config(**REGULARIZERS, **k)),
  'tied, muP, capped': (
    WINDOWS,
    windows(8),
    lambda **k: text_config(
      model__tied=True, network__base_width=16, model__logit_cap=3.0, **REGULARIZERS, **k
    ),
  ),
  'documents, one position': (
    WINDOWS,
    windows(8),
    lambda **k: text_config(objective__documents=True, objective__positions='one', **k),
  ),
  'patches, padded': (
    DIGITS,
    images(8) | {'weight': (jnp.arange(8) > 0).astype(jnp.float32)},
    lambda **k: small_config(
      ordering__size=2,
      head=dict(name='categorical', pad_to=32),
      model__output_bias=True,
      **REGULARIZERS,
      **SMALL,
      **k,
    ),
  ),
  'numbers': (series.SPEC, series.windows(8), series.series_config),
}


def loss_and_gradient(case, precision='float32', **settings):
  """(loss, metrics, gradient) in training, and the nats of each example, as a function of params.

  The parameters are the same for all settings."""
  spec, batch, config_of = CASES[case]
  made = build(config_of(**settings) | {'precision': precision}, spec)
  params = perturbed(jax.jit(made.init)(jax.random.key(0), batch)[0])

  def run(params, batch):
    context = Context(jnp.int32(0), params, True, jnp.arange(8), 8)
    loss = lambda params: made.loss(params, (), batch, jax.random.key(1), context)
    (value, aux), gradient = jax.value_and_grad(loss, has_aux=True)(params)
    return value, aux.metrics, gradient, made.nll(params, batch, jax.random.key(0)).nats

  return run, params, batch


@pytest.mark.parametrize('case', mostly_slow(CASES, ['text', 'numbers']))
def test_chunks_change_neither_losses_nor_gradients(case):
  whole, parts = (loss_and_gradient(case, model__chunk=chunk) for chunk in (0, 5))
  assert ' scan[' not in str(jax.make_jaxpr(whole[0])(*whole[1:]))
  assert ' scan[' in str(jax.make_jaxpr(parts[0])(*parts[1:]))
  close = lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)
  jax.tree.map(close, *(jax.jit(run)(params, batch) for run, params, batch in (whole, parts)))


@pytest.mark.parametrize('axes', [*slow([dict(data=8)]), dict(data=2, fsdp=2, tensor=2)], ids=str)
def test_chunks_on_a_mesh_equal_those_on_one_device(axes):
  """Each device has chunks of its own examples, and the gradients are added up once."""
  run, params, batch = loss_and_gradient('tied, muP, capped', model__chunk=4)
  mesh = make_mesh(dict(data=1, fsdp=1, tensor=1) | axes)
  split = jax.NamedSharding(mesh, jax.P(('data', 'fsdp')))

  def on_mesh(params, batch):
    with jax.sharding.use_abstract_mesh(mesh.abstract_mesh):
      return run(params, batch)

  close = lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)
  jax.tree.map(
    close, jax.jit(on_mesh)(params, jax.device_put(batch, split)), jax.jit(run)(params, batch)
  )


BATCH, LENGTH, VOCABULARY = 4, 64, 50_257
BOOK = dataclasses.replace(WINDOWS, shape=(LENGTH,), levels=VOCABULARY, tokenizer=None)


def test_logits_of_a_large_vocabulary_never_exist():
  """Neither in the traced program, forward or backward, nor in the memory of the compiled one."""
  temporary = {}
  for chunk in (LENGTH, 8):
    config = small_config(model__chunk=chunk, **SMALL) | {'ordering': dict(name='tokens')}
    made = build(config, BOOK)
    batch = {'x': jnp.zeros((BATCH, LENGTH), jnp.int32)}
    params = jax.eval_shape(made.init, jax.random.key(0), batch)[0]
    context = Context(jnp.int32(0), (), True, jnp.arange(BATCH), BATCH)

    def loss(params, made=made, batch=batch, context=context):
      return made.loss(params, (), batch, jax.random.key(1), context)[0]

    gradient = jax.jit(jax.grad(loss))
    largest = max(
      math.prod(out.aval.shape) for e in equations(gradient, params) for out in e.outvars
    )
    assert (largest < BATCH * LENGTH * VOCABULARY) == (chunk < LENGTH)
    temporary[chunk] = gradient.lower(params).compile().memory_analysis().temp_size_in_bytes
  # Two arrays of logits and their gradients at once are 103 MB, in chunks an eighth of it.
  assert temporary[8] < temporary[LENGTH] / 4


def test_the_number_of_chunks_by_size():
  assert chunk_count(8, 12, 9, chunk=0) == 1
  assert [chunk_count(8, 12, 9, chunk) for chunk in (1, 5, 6, 12, 50)] == [12, 3, 2, 1, 1]
  # GPT-2 on one device: the fewest chunks, as a power of two, that keep to the bound.
  count = chunk_count(32, 1024, 50_304, chunk=0)
  assert 32 * 1024 * 50_304 / count <= MAX_OUTPUTS < 32 * 1024 * 50_304 / (count // 2)
  assert count == 32 and chunk_count(1, 3, 2**30, chunk=0) == 3
  mesh = make_mesh(dict(data=4, fsdp=2, tensor=1))
  with jax.sharding.use_abstract_mesh(mesh.abstract_mesh):  # an eighth of the batch each
    assert chunk_count(32, 1024, 50_304, chunk=0) == 4
