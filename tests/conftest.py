"""Test set-up: eight virtual devices, checked array shapes, a warm compilation cache."""

import functools
import gc
import importlib.metadata
import importlib.util
import json
import os
import pathlib

CACHE = pathlib.Path(__file__).parents[1] / '.cache'
CHOSEN = os.environ.get('JAX_PLATFORMS', '')  # by the user
os.environ.setdefault('JAX_PLATFORMS', 'cpu')
# Compiles in less than half the time (docs/decisions.md).
FLAGS = (
  '--xla_force_host_platform_device_count=8 --xla_backend_optimization_level=0 '
  '--xla_cpu_parallel_codegen_split_count=1'
)
if importlib.metadata.version('jaxlib') < '0.11':  # later ones have no older emitters
  FLAGS += ' --xla_cpu_use_fusion_emitters=false'
os.environ.setdefault('XLA_FLAGS', FLAGS)
os.environ.setdefault('JAX_COMPILATION_CACHE_DIR', str(CACHE / 'jax-tests'))
os.environ.setdefault('TFDS_DATA_DIR', str(CACHE / 'datasets'))
os.environ.setdefault('JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS', '0')

import fsspec
import jax
import jaxtyping
import pytest
from jax._src.interpreters import mlir

from tests import gcs

jaxtyping.install_import_hook(['autoregressive', 'common', 'diffusion'], 'beartype.beartype')


# The default collects garbage every 700 new objects, and JAX makes and keeps many: a seventh of the
# time of a test.
gc.set_threshold(100_000, 50, 100)


def pytest_collection_finish(session):
  """Takes the imported modules out of later garbage collections."""
  gc.collect()
  gc.freeze()


def pytest_configure(config):
  """Lets `pytest -m gpu` use a GPU, compiled as for users, and the same at every run."""
  if config.option.markexpr == 'gpu' and not CHOSEN:
    # No device has been initialised yet: JAX reads both settings when the first one is.
    jax.config.update('jax_platforms', None)
    os.environ['XLA_FLAGS'] = '--xla_gpu_deterministic_ops=true'


@pytest.fixture(autouse=True, scope='module')
def _free_compiled_programs():
  """Frees the programs of each file after its tests: JAX would keep them, 4 GB in a whole run."""
  # One context of MLIR for the file: making one for each program takes a seventh of the time.
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(mlir, 'make_ir_context', functools.cache(mlir.make_ir_context))
    yield
  jax.clear_caches()
  gc.collect()


@pytest.fixture(scope='session')
def bucket_server():
  """Cloud Storage on the loopback device, which gs:// reaches in this process and in commands."""
  if importlib.util.find_spec('gcsfs') is None:
    pytest.skip("needs gcsfs: pip install -e '.[gcs]'")
  with gcs.serving() as server, pytest.MonkeyPatch.context() as patch:
    for name, value in server.environment.items():
      patch.setenv(name, value)
    # As in the environment, which fsspec has read when it was imported.
    patch.setitem(fsspec.config.conf, 'gcs', json.loads(server.environment['FSSPEC_GCS']))
    yield server
