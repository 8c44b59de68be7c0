"""The unit and the level of a series do not matter: from a CSV file to the score of forecasts."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from autoregressive.method import build
from common.data import pipeline
from common.domains.forecasts.draws import Windows, forecast
from common.evaluation.forecasts.scores import score
from tests.autoregressive.series import loss_context, series_config
from tests.cases import slow

LEVELS = [(a, b) for a in (1.0, 1e-4, 1e3) for b in (0.0, 1e6, 1.7e9)]
SIZES = dict(context=16, horizon=4, stride=1)


def csv(path, a, b):
  """A noisy daily wave, times a, plus b."""
  rng = np.random.default_rng(0)
  x = np.sin(2 * np.pi * np.arange(120) / 7) + 0.2 * rng.normal(size=120)
  days = np.datetime64('2024-01-01') + np.arange(120)
  lines = [f'{day},{a * value + b}' for day, value in zip(days, x.round(4), strict=True)]
  path.write_text('\n'.join(['date,value', *lines]))
  return str(path)


@pytest.mark.slow
@pytest.mark.parametrize('head', [*slow(['student_t']), 'quantiles'])
def test_a_fit_of_a_series_times_a_plus_b_has_a_times_the_crps(tmp_path, head):
  """Not for a head over counts: counts have no other unit, and do not begin at b."""
  made, found = None, {}
  optimizer = optax.adam(1e-2)

  @jax.jit
  def fit(params, x, label):
    def step(carry, key):
      params, state = carry
      chosen = jax.random.randint(key, (16,), 0, len(x))
      batch = {'x': x[chosen], 'label': label[chosen]}
      context = loss_context(params, 16)
      grads = jax.grad(lambda p: made.loss(p, (), batch, key, context)[0])(params)
      updates, state = optimizer.update(grads, state)
      return (optax.apply_updates(params, updates), state), None

    keys = jax.random.split(jax.random.key(0), 40)
    return jax.lax.scan(step, (params, optimizer.init(params)), keys)[0][0]

  for number, (a, b) in enumerate(LEVELS):
    source = csv(tmp_path / f'{number}.csv', a, b)
    settings = dict(name='series', dir=str(tmp_path / 'data'), source=source, **SIZES)
    data = pipeline.load(settings)
    train = data.splits['train'].gather(np.arange(data.spec.num_train))
    if made is None:  # one method, one compiled fit: units are in the spec of the data
      made = build(series_config(head=head), data.spec)
      start, _ = jax.jit(made.init)(jax.random.key(0), {'x': train['x'][:1]})
    params = fit(start, jnp.asarray(train['x']), jnp.asarray(train['label']))
    windows = Windows(data.spec, data.splits['test'], np.arange(len(data.splits['test'])))
    forecasts = forecast(made, params, jax.random.key(1), windows, 50)
    scores = score(forecasts, 7, 'test')
    found[a, b] = scores.value('crps') / a, scores.value('naive') / a
  # 1.7e9 + 1e-4·x keeps three digits of x in float64, and training magnifies the difference.
  plain, naive = found[1.0, 0.0]
  np.testing.assert_allclose(list(found.values()), [(plain, naive)] * len(LEVELS), rtol=4e-2)
  assert plain < naive
