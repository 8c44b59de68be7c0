"""Test set-up: eight virtual devices, checked array shapes, a warm compilation cache."""

import os

os.environ.setdefault('JAX_PLATFORMS', 'cpu')
os.environ.setdefault('XLA_FLAGS', '--xla_force_host_platform_device_count=8')

import jaxtyping

jaxtyping.install_import_hook(['autoregressive', 'common', 'diffusion'], 'beartype.beartype')
