"""Orderings: round trips, the order of emissions, and refusals."""

import jax.numpy as jnp
import numpy as np
import pytest

from autoregressive.orderings import ORDERINGS, Ordering, build_ordering
from common.config import ConfigError
from common.data.spec import DataSpec
from tests.autoregressive.common import images

COLOUR = DataSpec('colour', 'image', (4, 6, 3), 256)


def test_every_ordering_has_the_members_of_the_base_class():
  assert all(issubclass(kind, Ordering) for kind in ORDERINGS.values())
  domains = {name: kind.domains for name, kind in ORDERINGS.items()}
  series = dict.fromkeys(('windows', 'horizon'), ('series',))
  others = dict(patches=('image',), tokens=('text',), frames=('music', 'rolls'))
  assert domains == others | series
  tokens = build_ordering({'name': 'tokens'}, DataSpec('text', 'text', (5,), 7))
  assert tokens.covariates(jnp.zeros((1, 5), jnp.int32)) is None and tokens.grid is None
  assert (tokens.features, tokens.given, tokens.period) == (0, 0, 1)
  assert not tokens.counts and not tokens.needs_past


@pytest.mark.parametrize('size', [1, 2])
@pytest.mark.parametrize('channels', ['together', 'apart'])
def test_round_trip(size, channels):
  ordering = build_ordering({'name': 'patches', 'size': size, 'channels': channels}, COLOUR)
  x = images(5, COLOUR)['x']
  emissions = ordering.encode(x)
  assert emissions.shape == (5, ordering.length, ordering.values)
  assert ordering.length * ordering.values == COLOUR.num_dims
  np.testing.assert_array_equal(ordering.decode(emissions), x)


def test_images_of_numbers_are_refused():
  latents = DataSpec('latents', 'image', (4, 4, 2), 0)
  with pytest.raises(ConfigError, match="'latents' holds real numbers: use family 'diffusion'"):
    build_ordering({'name': 'patches'}, latents)


def test_raster_order():
  ordering = build_ordering({'name': 'patches', 'channels': 'apart'}, COLOUR)
  x = images(1, COLOUR)['x']
  np.testing.assert_array_equal(ordering.encode(x)[0, :, 0], x.reshape(-1))


def test_patches_are_squares_row_by_row():
  ordering = build_ordering({'name': 'patches', 'size': 2}, COLOUR)
  x = images(1, COLOUR)['x']
  np.testing.assert_array_equal(ordering.encode(x)[0, 4], x[0, 2:4, 2:4].reshape(-1))


def test_channels_apart_follow_one_another_within_a_patch():
  ordering = build_ordering({'name': 'patches', 'size': 2, 'channels': 'apart'}, COLOUR)
  x = images(1, COLOUR)['x']
  np.testing.assert_array_equal(ordering.encode(x)[0, 3 * 4 + 1], x[0, 2:4, 2:4, 1].reshape(-1))


@pytest.mark.parametrize(
  'settings, message',
  [
    ({'size': 4}, 'ordering.size=4 does not divide images of 4 x 6'),
    ({'size': 0}, 'ordering.size=0'),
    ({'channels': 'mixed'}, "ordering.channels='mixed' is unknown; known: apart, together"),
    ({'sise': 2}, "did you mean 'size'"),
  ],
)
def test_refuses(settings, message):
  with pytest.raises(ConfigError, match=message) as error:
    build_ordering({'name': 'patches'} | settings, COLOUR)
  assert '\n' not in str(error.value)
