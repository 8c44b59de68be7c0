"""Settings with which a config needs less memory of each device, in the order in which to try them.

Each replaces as little as possible: the precision of products, activations that are recomputed,
smaller parts of the batch, and last the mesh.
"""

from collections.abc import Iterator, Mapping
from typing import Any

REMAT = {'dit': 'true', 'unet': 'true', 'transformer': 'nothing'}
TENSOR = (2, 4, 8)

Settings = dict[str, list[str]]  # {dotted key: values as text}, as on the command line


def suggestions(
  config: Mapping[str, Any], step: str, devices: int, state_fits: bool = True
) -> Iterator[Settings]:
  """Settings to try, each with those before it that keep the state and the batch.

  Args:
    config: a complete config.
    step: the step to compile, a value of --step.
    devices: the number of devices.
    state_fits: whether a device has room for parameters, optimiser state and averages; if not, only
      another mesh helps.
  """
  cheap: Settings = {}
  if config['precision'] == 'float32':
    cheap['precision'] = ['bfloat16']
  if state_fits and cheap:
    yield dict(cheap)
  if step == 'train' and not config.get('network', {}).get('remat', True):
    cheap['network.remat'] = [REMAT[config['network']['name']]]
    if state_fits:
      yield dict(cheap)
  if state_fits:
    shards = devices // config['parallel']['tensor']  # devices that split the batch
    yield from (cheap | part for part in _smaller_parts(config, step, shards))
  for mesh in _meshes(config, devices):
    yield cheap | mesh
    smallest = [*_smaller_parts(config, step, devices // int(mesh['parallel.tensor'][0]))][-1:]
    yield from (cheap | mesh | part for part in smallest)


def _smaller_parts(config: Mapping[str, Any], step: str, shards: int) -> Iterator[Settings]:
  """At least twice as many micro-batches each time; for other steps, halves of a batch."""
  if step == 'train':
    number, size = config['train']['micro_batches'], config['data']['batch_size']
    for more in range(2 * number, size // shards + 1):
      if more >= 2 * number and size % (shards * more) == 0:
        yield {'train.micro_batches': [str(more)]}
        number = more
    return
  size = config['evaluation']['batch_size'] // 2
  while size >= shards:
    yield {'evaluation.batch_size': [str(size)]}
    size //= 2


def _meshes(config: Mapping[str, Any], devices: int) -> Iterator[Settings]:
  """Meshes that split the state over more devices: first by fsdp, then by tensor too."""
  now = config['parallel']
  for tensor in sorted({now['tensor'], *(size for size in TENSOR if size > now['tensor'])}):
    fsdp = now['fsdp'] * 2 if tensor == now['tensor'] else devices // tensor
    while devices % (tensor * fsdp) == 0 and tensor * fsdp <= devices:
      sizes = {'data': devices // (tensor * fsdp), 'fsdp': fsdp, 'tensor': tensor}
      yield {f'parallel.{axis}': [str(size)] for axis, size in sizes.items()}
      fsdp *= 2


def as_flags(settings: Settings) -> str:
  """'--config.precision=bfloat16 ...', to type."""
  return ' '.join(f'--config.{key}={value}' for key, values in settings.items() for value in values)
