"""JAX's compilation cache: where the commands keep compiled programs."""

import os
import pathlib
import platform
import zlib

import jax

CPU_INFO = pathlib.Path('/proc/cpuinfo')


def use(folder: str | None) -> None:
  """Sets JAX's compilation cache, with a separate default folder for each type of processor."""
  if jax.config.jax_compilation_cache_dir:
    return  # the environment has set it
  home = os.environ.get('XDG_CACHE_HOME') or pathlib.Path.home() / '.cache'
  if folder is None:
    folder = str(pathlib.Path(home) / 'twofold' / 'jax' / processor_name())
  jax.config.update('jax_compilation_cache_dir', folder)
  jax.config.update('jax_persistent_cache_min_compile_time_secs', 0.5)


def processor_name() -> str:
  """A name for the type of this machine's processor.

  Compiled code may use instructions that another processor lacks, so the name depends on the model
  and the features.
  """
  try:
    first_core = CPU_INFO.read_text().partition('\n\n')[0]
  except OSError:  # not Linux
    first_core = f'model {platform.system()} {platform.processor()}'
  features = [line for line in first_core.splitlines() if line.startswith(('flags', 'model'))]
  return f'{platform.machine()}-{zlib.crc32("".join(features).encode()):08x}'
