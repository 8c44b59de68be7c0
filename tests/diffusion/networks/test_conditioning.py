import jax
import jax.numpy as jnp
import numpy as np

from diffusion.networks.conditioning import (
  Conditioning,
  random_fourier,
  sinusoid_adm,
  sinusoid_ddpm,
)


def test_sinusoids_equal_the_values_of_the_papers_code():
  noise = jnp.array([10.0])
  np.testing.assert_allclose(
    sinusoid_ddpm(noise, 8)[0],
    [
      -0.5440211109,
      0.4476708347,
      0.02154268027,
      0.0009999998333,
      -0.8390715291,
      0.8941984253,
      0.9997679295,
      0.9999995,
    ],
    rtol=2e-6,
  )
  np.testing.assert_allclose(
    sinusoid_adm(noise, 8)[0],
    [
      -0.8390715291,
      0.5403023059,
      0.9950041653,
      0.9999500004,
      -0.5440211109,
      0.8414709848,
      0.09983341665,
      0.009999833334,
    ],
    rtol=2e-6,
  )


def test_random_fourier_features_follow_the_gaussian_kernel():
  # E[cos(w d)] = exp(-(2 pi 16 d)^2 / 2) for w normal with scale 2 pi 16 (Rahimi & Recht 2007).
  distance = np.array([0.0, 0.002, 0.005, 0.01, 0.02])
  features = random_fourier(jnp.asarray(1000 * (0.3 + distance), jnp.float32), 4096)
  kernel = features @ features[0] / 2048
  np.testing.assert_allclose(kernel, np.exp(-((2 * np.pi * 16 * distance) ** 2) / 2), atol=0.06)


def test_two_layers_and_the_row_of_the_class_by_hand():
  network = Conditioning(6, 'adm', 8, num_classes=3)
  noise = jnp.array([10.0, 300.0, 900.0])
  params = network.init(jax.random.key(0), noise)['params']
  first, second, rows = (
    jax.tree.map(np.asarray, params[n]) for n in ('first', 'second', 'label_embed')
  )
  h = np.asarray(sinusoid_adm(noise, 8)) @ first['kernel'] + first['bias']
  h = (h / (1 + np.exp(-h))) @ second['kernel'] + second['bias']
  for label, row in ((jnp.array([0, 2, 1]), [0, 2, 1]), (None, [3, 3, 3])):
    made = network.apply({'params': params}, noise, label)
    np.testing.assert_allclose(made, h + rows['embedding'][row], rtol=1e-4, atol=1e-6)


def test_an_early_class_is_added_to_the_noise_embedding_times_the_root_of_their_number():
  """Karras et al. 2022, the authors' code: W·√classes·one_hot + b, zeros for no class."""
  network = Conditioning(6, 'ddpm', 8, num_classes=3, early_label=True)
  noise = jnp.array([10.0, 300.0, 900.0])
  params = network.init(jax.random.key(0), noise)['params']
  assert set(params) == {'first', 'second', 'label_proj'}
  first, second, label = (
    jax.tree.map(np.asarray, params[n]) for n in ('first', 'second', 'label_proj')
  )
  rows = np.sqrt(3) * np.concatenate([label['kernel'], np.zeros((1, 8))])[np.array([2, 0, 3])]
  h = np.asarray(sinusoid_ddpm(noise, 8)) + rows + label['bias']
  h = h @ first['kernel'] + first['bias']
  expected = (h / (1 + np.exp(-h))) @ second['kernel'] + second['bias']
  made = network.apply({'params': params}, noise, jnp.array([2, 0, 3]))
  np.testing.assert_allclose(made, expected, rtol=1e-4, atol=1e-5)


def test_tokens_add_up_to_the_one_vector():
  noise, label = jnp.array([10.0, 300.0]), jnp.array([1, 0])
  apart = Conditioning(6, 'adm', 8, num_classes=3, tokens=True)
  params = apart.init(jax.random.key(0), noise)['params']
  tokens = apart.apply({'params': params}, noise, label)
  assert tokens.shape == (2, 2, 6)
  together = Conditioning(6, 'adm', 8, num_classes=3).apply({'params': params}, noise, label)
  np.testing.assert_allclose(tokens.sum(axis=1), together, rtol=1e-6)
