"""Which dimension of each parameter the axes of a mesh split.

`tensor` splits the work inside a layer, so its dimension depends on what the layer does: `RULES`
name it. `fsdp` only stores a shard on each device, and the compiler gathers a layer's shards before
the layer runs, so any dimension will do.
"""

import functools
import math
import re
from collections.abc import Mapping
from typing import NamedTuple

import jax
from jax.sharding import AbstractMesh, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from common.config import ConfigError
from common.data.spec import DataSpec
from common.devices.mesh import AXES
from common.method import Method, PyTree
from common.trees import path_name


class Rule(NamedTuple):
  """How `tensor` splits the parameters whose path matches.

  Attributes:
    pattern: regular expression for the end of a path.
    dims: the dimension that `tensor` splits, counted from the end, and what a large parameter has
      split if `tensor` does not divide that; (): no dimension.
    setting: the setting whose multiples `tensor` divides.
  """

  pattern: str
  dims: tuple[int, ...] = ()
  setting: str = ''


VECTORS = re.compile(r'(bias|scale|length)$')

# The widths of both networks of a GAN.
GAN_WIDTH = 'generator.width and discriminator.width'

# The first match wins. Two layers in a row are split as in Megatron-LM (Shoeybi et al. 2019): the
# first by its outputs (columns), the second by its inputs (rows). Between them each device has its
# own units, and after them the devices add up their results, once for the pair. A layer by itself
# is split by its inputs, so that its outputs are whole wherever they are cut into parts (shift and
# scale, value and gate, taps).
RULES = (
  # Updates of LoRA are small.
  Rule(r'(^|/)lora/'),
  # Megatron's vocabulary-parallel table and head: a device has the rows and logits of its tokens.
  Rule(r'token_embed/embedding$', (-2,), 'head.pad_to'),
  Rule(r'(^|/)(?<!network/)(?<!experts/)output_proj/kernel$', (-1,), 'head.pad_to'),
  # Other tables: positions and classes. Classes are often an odd number with the null class.
  Rule(r'embedding$', (-2, -1), 'network.width'),
  # Attention by heads. Causal transformers: [width, heads · dim], key head by key head.
  Rule(r'(^|/)attention/qkv/(kernel|bias)$', (-1,), 'network.kv_heads'),
  Rule(r'(^|/)attention/out/kernel$', (-2,), 'network.heads'),
  # U-Net and autoencoder: [width, 3, heads, dim], and often a single head: then by inputs, and
  # `out` by outputs.
  Rule(r'_attention/qkv/kernel$', (-2, -4), 'network.width'),
  Rule(r'_attention/out/kernel$', (-3, -1), 'network.width'),
  # Transformers over patches: the same shapes, with several heads.
  Rule(r'(qkv|cross/q|cross/kv)/(kernel|bias)$', (-2,), 'network.heads'),
  Rule(r'out/kernel$', (-3,), 'network.heads'),
  # GANs: the convolutions of residual blocks as below, and all other layers by themselves.
  Rule(r'(^|/)(generator|discriminator)/(\w+/)*conv1/(kernel|bias)$', (-1,), GAN_WIDTH),
  Rule(r'(^|/)(generator|discriminator)/(\w+/)*conv2/kernel$', (-2,), GAN_WIDTH),
  Rule(
    r'(^|/)(generator|discriminator)/(\w+/)*(input|output|skip|(up|down|dense)_\d+)/kernel$',
    (-2, -1),
    GAN_WIDTH,
  ),
  # Perceptrons: columns, then rows. Gate and gated units are two matrices, split alike.
  Rule(r'(up|gate)/(kernel|bias)$', (-1,), 'network.mlp_width or network.width'),
  Rule(r'down/kernel$', (-2,), 'network.mlp_width or network.width'),
  # A residual block's convolutions: output channels, to which the projected condition is added;
  # then input channels.
  Rule(r'(conv1|condition_proj)/(kernel|bias)$', (-1,), 'network.width'),
  Rule(r'conv2/kernel$', (-2,), 'network.width'),
  # The two layers of a diffusion network's condition.
  Rule(r'conditioning/first/(kernel|bias)$', (-1,), 'network.width'),
  Rule(r'conditioning/second/kernel$', (-2,), 'network.width'),
  # Layers by themselves: inputs, or outputs where there are few inputs. First those of DiT, U-Net
  # and autoencoders; then those without a name (perceptrons, TCN, PixelCNN++) and recurrent cells,
  # whose kernels are joined along their outputs; then networks over images, and the inputs of
  # models.
  Rule(
    r'(modulation|patch_embed|augment_proj|label_proj|skip|input|output|output_proj|resample|quant_conv)'
    r'/kernel$',
    (-2, -1),
    'network.width',
  ),
  Rule(r'((Dense|Conv)_\d+|cell/\w+)/kernel$', (-2, -1), 'network.width'),
  Rule(
    r'(first_\w+|[vh]_(up|down)|(vertical|horizontal|vertical_to_horizontal|reduce|mix|expand)_\d+'
    r'|output_conv|(start|input|covariate)_proj(_\d+)?)/kernel$',
    (-2, -1),
    'network.width',
  ),
  # N-BEATS: the layers of a block.
  Rule(r'(layer_\d+|backcast|forecast)/kernel$', (-2, -1), 'network.units'),
  # Vectors, one number per channel: biases that are added to whole outputs, and scales of norms.
  Rule(VECTORS.pattern),
)
# Experts of a diffusion model, stacked along the first axis. No axis of the mesh splits it: every
# device runs all experts, on its part of the batch.
STACKED = re.compile(r'(^|/)network/experts/')
# Smaller leaves are replicated: gathering their shards would cost more than it saves in memory.
FSDP_MIN_SIZE = 2**12
# A copy on every device of a parameter of this size, or larger, is refused: 256 KiB in float32.
LARGE = 2**16
SHOWN = 3  # parameters in a message


def find_rule(path: str) -> Rule | None:
  """The rule for a parameter, or None."""
  return next((rule for rule in RULES if re.search(rule.pattern, path)), None)


def leaf_spec(path: str, shape: tuple[int, ...], mesh: Mesh | AbstractMesh) -> P:
  """The axes of the mesh that split each dimension of a leaf, if any.

  A rule chooses the dimension for `tensor`. `fsdp` then splits the largest other dimension that it
  divides, or else the same one once more (always so for convolutions). A dimension that its axis
  does not divide is not split.
  """
  spec: list[str | tuple[str, ...] | None] = [None] * len(shape)
  tensor, fsdp = mesh.shape['tensor'], mesh.shape['fsdp']
  rule = find_rule(path)
  if tensor > 1 and rule is not None:
    known = [d for d in rule.dims if len(shape) >= -d]
    dims = [d for d in known[: None if math.prod(shape) >= LARGE else 1] if shape[d] % tensor == 0]
    if dims:
      spec[dims[0]] = 'tensor'
  if fsdp > 1 and math.prod(shape) >= FSDP_MIN_SIZE:
    first = 1 if STACKED.search(path) else 0
    free = [d for d, s in enumerate(shape) if d >= first and spec[d] is None and s % fsdp == 0]
    if 'tensor' in spec and _is_convolution(path, shape):
      free = []
    again = [d for d, s in enumerate(shape) if spec[d] and s % (tensor * fsdp) == 0]
    if free:
      spec[max(free, key=functools.partial(_preference, path, shape))] = 'fsdp'
    elif again:
      spec[again[0]] = ('tensor', 'fsdp')
  return P(*spec)


def _preference(path: str, shape: tuple[int, ...], dim: int) -> tuple[bool, int, int]:
  """Orders the dimensions that `fsdp` may split: the largest, and the last of several equal ones.

  A table of embeddings is split by its width. With its rows split, each device would have to add up
  the hidden states of the whole batch, to which all devices contribute.
  """
  return path.endswith('embedding') and dim == len(shape) - 1, shape[dim], dim


def _is_convolution(path: str, shape: tuple[int, ...]) -> bool:
  """Whether a leaf is [rows, columns, inputs, outputs]; attention has kernels of four axes too.

  XLA's partitioner (JAX 0.10.2) gives wrong numbers for a U-Net on data 2 × fsdp 2 × tensor 2 if
  one axis splits the inputs of its convolutions and another one their outputs.
  """
  axes = len(shape) - (1 if STACKED.search(path) else 0)
  return axes == 4 and re.search(r'(?<!/qkv)(?<!/q)(?<!/kv)(?<!/out)/kernel$', path) is not None


def check_placement(params: PyTree, mesh: Mesh | AbstractMesh) -> None:
  """Raises ConfigError if `tensor` or `fsdp` leaves a large parameter whole on every device.

  Also for convolutions of experts on a mesh with three axes, whose gradients XLA (JAX 0.10.2) gets
  wrong; on every two axes they are right (tests/diffusion/test_experts.py).

  Args:
    params: parameters, or their shapes.
    mesh: the devices.
  """
  leaves = jax.tree_util.tree_leaves_with_path(params)
  names = {path_name(path): leaf.shape for path, leaf in leaves}
  stacked = [path for path in names if STACKED.search(path) and _is_convolution(path, names[path])]
  if stacked and min(mesh.shape[axis] for axis in AXES) > 1:
    raise ConfigError(
      'experts of a network with convolutions cannot be spread over parallel.data, fsdp and tensor '
      'at once: set one of them to 1'
    )
  sizes = {path_name(path): leaf.shape for path, leaf in leaves if leaf.size >= LARGE}
  axes = {path: str(leaf_spec(path, shape, mesh)) for path, shape in sizes.items()}
  rules = {path: find_rule(path) for path in sizes}
  tensor, fsdp = mesh.shape['tensor'], mesh.shape['fsdp']
  unnamed = {path: sizes[path] for path, rule in rules.items() if rule is None}
  if tensor > 1 and unnamed:
    raise ConfigError(
      f'parallel.tensor={tensor}: no rule splits {_shown(unnamed)}; set parallel.tensor=1, or add '
      'a rule to common/training/sharding.py'
    )
  # Vectors, even large stacks of them, may be whole.
  split = {path: rule for path, rule in rules.items() if rule is not None and rule.dims}
  whole = {path: sizes[path] for path in split if 'tensor' not in axes[path]}
  if tensor > 1 and whole:
    settings = ' and '.join(sorted({split[path].setting for path in whole}))
    raise ConfigError(
      f'parallel.tensor={tensor} does not divide {_shown(whole)}; make {settings} a multiple of '
      f'{tensor}, or set parallel.tensor=1'
    )
  whole = {
    path: sizes[path] for path in sizes if VECTORS.search(path) is None and 'fsdp' not in axes[path]
  }
  if fsdp > 1 and whole:
    raise ConfigError(
      f'parallel.fsdp={fsdp} divides no dimension of {_shown(whole)}; use fewer devices for '
      'parallel.fsdp and more for parallel.data'
    )


def _shown(sizes: Mapping[str, tuple[int, ...]]) -> str:
  """Parameters in a message: a few by name and shape, and the number of the others."""
  shown = [f'{path} {shape}' for path, shape in list(sizes.items())[:SHOWN]]
  more = [f'{len(sizes) - SHOWN} more'] if len(sizes) > SHOWN else []
  return ', '.join(shown + more)


def shardings(abstract: PyTree, mesh: Mesh | AbstractMesh) -> PyTree:
  """A NamedSharding for every leaf.

  The path of a leaf of the optimiser state ends with the path of its parameter, so both are split
  in the same way.
  """
  return jax.tree_util.tree_map_with_path(
    lambda path, leaf: NamedSharding(mesh, leaf_spec(path_name(path), leaf.shape, mesh)), abstract
  )


def gathered(params: PyTree, prefix: str) -> PyTree:
  """Parameters of a layer inside a program, with the shards of `fsdp` gathered.

  Unchanged outside the scope of a mesh. Without it, XLA (JAX 0.10.2) does not gather slices of a
  stack, splits the layer's channels by both axes, and gives wrong numbers for convolutions.

  Args:
    params: the parameters.
    prefix: the path that the rules know them under.
  """
  mesh = jax.sharding.get_abstract_mesh()
  if 'fsdp' not in mesh.shape:  # under `pmap` there is a mesh of another kind
    return params
  sizes = tuple(1 if axis == 'fsdp' else mesh.shape[axis] for axis in AXES)
  return jax.tree_util.tree_map_with_path(
    functools.partial(_constrained, prefix, AbstractMesh(sizes, AXES)), params
  )


def _constrained(prefix: str, mesh: AbstractMesh, path: tuple, leaf: jax.Array) -> jax.Array:
  spec = leaf_spec(f'{prefix}/{path_name(path)}', leaf.shape, mesh)
  return jax.lax.with_sharding_constraint(leaf, spec)


def abstract_params(method: Method, spec: DataSpec, mesh: Mesh) -> PyTree:
  """Shapes, types and shardings of the parameters of a method on a mesh."""
  shapes = jax.eval_shape(method.init, jax.random.key(0), spec.batch_struct(1))[0]
  return with_shardings(shapes, shardings(shapes, mesh))


def with_shardings(shapes: PyTree, where: PyTree) -> PyTree:
  """Shapes and types with the sharding of each leaf."""
  return jax.tree.map(
    lambda a, s: jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=s), shapes, where
  )
