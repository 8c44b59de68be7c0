"""Energy at high frequencies: closed forms of stripes and of a blur."""

import numpy as np
import pytest
from scipy import ndimage
from sklearn import datasets

from common.evaluation.images import spectra


def test_stripes_of_one_frequency_have_its_power():
  # Columns 0 and 255 in turn: ½ + ½ cos(πx), with |F|² = (hw/2)² at the Nyquist frequency.
  stripes = np.zeros((1, 8, 12, 1), np.uint8)
  stripes[:, :, ::2] = 255
  number = spectra.high_frequencies(8, 12).sum()
  found = spectra.high_frequency_power(stripes, 256)
  np.testing.assert_allclose(found, [8 * 12 / 4 / number], rtol=1e-12)
  assert spectra.high_frequency_power(np.full((1, 8, 12, 3), 9, np.uint8), 256) < 1e-25


def test_frequencies_are_counted_beyond_half_of_the_nyquist_frequency():
  # Of eight, the frequencies 0, ±1/8, ±2/8, ±3/8 and 1/2: the last two kinds lie beyond 1/4.
  assert spectra.high_frequencies(1, 8).tolist() == [[False] * 3 + [True] * 3 + [False] * 2]
  assert spectra.high_frequencies(8, 8)[2, 1]  # √(4 + 1)/8
  assert not spectra.high_frequencies(1, 1).any()


def test_a_blur_scales_the_power_by_its_transfer_function():
  """The sum of a pixel and its right neighbour: |H|² = 4 cos²(πf), f in cycles per pixel."""
  x = np.random.default_rng(0).integers(0, 128, (5, 16, 16, 1)).astype(np.uint8)
  blurred = x + np.roll(x, -1, axis=2)
  power = np.abs(np.fft.fft2(x[..., 0] / 255)) ** 2 / 256
  down, across = np.fft.fftfreq(16)[:, None], np.fft.fftfreq(16)
  chosen = np.sqrt(down**2 + across**2) > 0.25
  expected = (power * 4 * np.cos(np.pi * across) ** 2)[:, chosen].mean(1)
  np.testing.assert_allclose(spectra.high_frequency_power(blurred, 256), expected, rtol=1e-10)


def test_colours_count_by_their_mean_and_blocks_make_no_difference(monkeypatch):
  x = np.random.default_rng(0).integers(0, 17, (7, 8, 8, 3)).astype(np.uint8)
  found = spectra.high_frequency_power(x, 17)
  grey = x.astype(int).sum(-1, keepdims=True).astype(np.uint8)
  np.testing.assert_allclose(found, spectra.high_frequency_power(grey, 17) / 9, rtol=1e-12)
  monkeypatch.setattr(spectra, 'BLOCK', 3)
  np.testing.assert_array_equal(found, spectra.high_frequency_power(x, 17))


def test_blur_takes_energy_away_and_noise_adds_to_it():
  digits = datasets.load_digits().images[:200, :, :, None]
  power = {}
  for blur in (0.0, 0.5, 0.8, 1.2):
    x = ndimage.gaussian_filter(digits, (0, blur, blur, 0))
    power[blur] = spectra.high_frequency_power(np.round(x).astype(np.uint8), 17)
  ratios = [spectra.ratio_of_means(p, power[0.0]).value for p in power.values()]
  assert ratios[0] == 1 and (np.diff(ratios) < 0).all() and ratios[-1] < 0.2
  noise = np.random.default_rng(0).normal(0, 5, digits.shape)
  noisy = np.clip(np.round(digits + noise), 0, 16).astype(np.uint8)
  noisy = spectra.high_frequency_power(noisy, 17)
  assert spectra.ratio_of_means(noisy, power[0.0]).value > 1.2


def test_the_error_of_a_ratio_is_the_spread_over_repeated_draws():
  rng = np.random.default_rng(0)
  found = [spectra.ratio_of_means(rng.gamma(3, 1, 400), rng.gamma(2, 1, 200)) for _ in range(400)]
  spread = np.std([ratio.value for ratio in found])
  assert np.mean([ratio.standard_error for ratio in found]) == pytest.approx(spread, rel=0.12)
  assert spectra.ratio_of_means(np.ones(1), np.ones(5)).standard_error is None
