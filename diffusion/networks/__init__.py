"""Networks that estimate the clean data or the noise from a noisy input."""
