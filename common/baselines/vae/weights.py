"""Published autoencoders: `AutoencoderKL` and `VQModel`, in the layout of the library diffusers.

A folder holds `config.json` and `diffusion_pytorch_model.safetensors`, or several such files with
an index. Both models are the network 'conv'; `AutoencoderKL` is a VAE, `VQModel` a VQ-VAE.

  made = read('vae/')                                        a network, its parameters, the rest
  made.network().apply({'params': made.params}, x, method='encode')

Images are in [-1, 1].
"""

import pathlib
import re
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from common.baselines.vae.networks.conv import ConvAutoencoder
from common.config import ConfigError, pick, read_json
from common.published.keys import Keys
from common.published.tensors import Stored, check_tensors, find_tensors, load_tensor
from common.trees import path_name

STEM = 'diffusion_pytorch_model'
CODEBOOK = 'quantize.embedding.weight'
OPTIONAL = dict(
  layers_per_block=(int, 1),
  norm_num_groups=(int, 32),
  scaling_factor=(float, 0.18215),
  mid_block_add_attention=(bool, True),
)
# Tiles and types of a pipeline change no weights.
IGNORED = ('_class_name', '_diffusers_version', '_name_or_path', 'sample_size', 'force_upcast')
LISTS = dict(block_out_channels=list, down_block_types=list, up_block_types=list)
KEYS: Mapping[str, Keys] = {
  'AutoencoderKL': Keys(
    required=LISTS,
    optional=OPTIONAL
    | dict(
      in_channels=(int, 3),
      out_channels=(int, 3),
      latent_channels=(int, 4),
      shift_factor=(float, 0.0),
      use_quant_conv=(bool, True),
      use_post_quant_conv=(bool, True),
    ),
    fixed=dict(act_fn='silu'),
    ignored=IGNORED,
    signed=('shift_factor',),
  ),
  'VQModel': Keys(
    required=LISTS,
    optional=OPTIONAL
    | dict(
      in_channels=(int, 3),
      out_channels=(int, 3),
      latent_channels=(int, 3),
      num_vq_embeddings=(int, 256),
      vq_embed_dim=(int, None),
    ),
    fixed=dict(act_fn='silu', norm_type='group', lookup_from_codebook=False),
    ignored=IGNORED,
  ),
}
BLOCKS = dict(down_block_types='DownEncoderBlock2D', up_block_types='UpDecoderBlock2D')
# (our module, theirs), one after the other; a level of the decoder has the same number in both.
MODULES = (
  (r'^(encoder|decoder)/((post_)?quant_conv)', r'\2'),
  (r'/down_(\d+)_resample', r'/down_blocks.\1.downsamplers.0.conv'),
  (r'/up_(\d+)_resample', r'/up_blocks.\1.upsamplers.0.conv'),
  (r'/(down|up)_(\d+)_(\d+)', r'/\1_blocks.\2.resnets.\3'),
  (r'/middle_(\d)', r'/mid_block.resnets.\1'),
  (r'/middle_attention/norm', '/mid_block.attentions.0.group_norm'),
  (r'/middle_attention/out', '/mid_block.attentions.0.to_out.0'),
  (r'/middle_attention/qkv', '/mid_block.attentions.0.to_{}'),
  (r'^(encoder|decoder)/norm', r'\1/conv_norm_out'),
  (r'/input', '/conv_in'),
  (r'/output', '/conv_out'),
  (r'/skip', '/conv_shortcut'),
  (r'/(kernel|scale)$', '/weight'),
)
# Names of the attention's layers in files of before 2023.
OLD_NAMES = {'query': 'to_q', 'key': 'to_k', 'value': 'to_v', 'proj_attn': 'to_out.0'}


class Published(NamedTuple):
  """A published autoencoder.

  Attributes:
    kind: a key of KEYS.
    settings: those of `ConvAutoencoder`.
    channels: channels of the images.
    latent_channels: channels of the latents.
    scaling_factor, shift_factor: a diffusion model is given (latents - shift) · scaling.
    codes: number of vectors in the codebook; 0: no codebook.
    params: parameters of `network()`.
    codebook: [codes, latent_channels], or None.
  """

  kind: str
  settings: Mapping[str, Any]
  channels: int
  latent_channels: int
  scaling_factor: float
  shift_factor: float
  codes: int = 0
  params: Any = None
  codebook: Float[Array, 'codes channels'] | None = None

  def network(self, dtype: str = 'float32') -> ConvAutoencoder:
    """The network. Its features are means and log-variances, or vectors next to the codebook's."""
    features = self.latent_channels if self.codes else 2 * self.latent_channels
    return ConvAutoencoder(self.channels, features, dtype=dtype, **self.settings)


def describe(folder: str | pathlib.Path) -> Published:
  """A published autoencoder without its parameters: only `config.json` is read.

  Raises:
    ConfigError: for a folder without weights, another kind of model, or a key of config.json that
      is missing, unknown or not supported.
  """
  where = pathlib.Path(folder).expanduser() / 'config.json'
  if not where.exists():
    raise ConfigError(f'{where.parent} holds no published autoencoder: there is no config.json')
  found = read_json(where)
  kind = str(found.get('_class_name'))
  keys = pick(KEYS, kind, f'_class_name in {where}:')
  config = keys.read(found, str(where))
  quantised = kind == 'VQModel'
  _check_same(config, 'in_channels', 'out_channels', where)
  if quantised:
    config['vq_embed_dim'] = config['vq_embed_dim'] or config['latent_channels']
    _check_same(config, 'latent_channels', 'vq_embed_dim', where)
  else:
    _check_same(config, 'use_quant_conv', 'use_post_quant_conv', where)
  return Published(
    kind,
    _settings(config, where),
    config['in_channels'],
    config['latent_channels'],
    config['scaling_factor'],
    config.get('shift_factor', 0.0),
    config.get('num_vq_embeddings', 0),
  )


def _check_same(config: Mapping[str, Any], one: str, other: str, where: pathlib.Path) -> None:
  """Raises ConfigError if two keys differ."""
  if config[one] != config[other]:
    raise ConfigError(
      f'{where} has {one}={config[one]!r} and {other}={config[other]!r}, which is not supported; '
      'they must be equal'
    )


def _settings(config: Mapping[str, Any], where: pathlib.Path) -> dict[str, Any]:
  """Settings of `ConvAutoencoder`. Raises ConfigError for lists of other blocks or sizes."""
  sizes = config['block_out_channels']
  if not sizes or not all(type(size) is int and size > 0 for size in sizes):
    raise ConfigError(
      f'{where} has block_out_channels={sizes!s:.60}; it must be a list of whole numbers above 0'
    )
  for key, block in BLOCKS.items():
    if config[key] != [block] * len(sizes):
      raise ConfigError(
        f'{where} has {key}={config[key]!s:.80}, which is not supported; only {block!r} is, once '
        f'for each of {len(sizes)} levels'
      )
  if any(size % sizes[0] for size in sizes):
    raise ConfigError(
      f'{where} has block_out_channels={sizes!s:.60}, which is not supported; all must be '
      'multiples of the first'
    )
  if any(size % config['norm_num_groups'] for size in sizes):
    raise ConfigError(
      f'{where} has norm_num_groups={config["norm_num_groups"]}, which does not divide '
      f'block_out_channels={sizes!s:.60}'
    )
  return dict(
    width=sizes[0],
    multipliers=tuple(size // sizes[0] for size in sizes),
    blocks=config['layers_per_block'],
    groups=config['norm_num_groups'],
    attention=config['mid_block_add_attention'],
    quant_conv=config.get('use_quant_conv', True),
  )


def read(folder: str | pathlib.Path) -> Published:
  """Reads a published autoencoder. Its parameters are float32, whatever the type in the files.

  Raises:
    ConfigError: as `describe`, and for the first tensor that is missing, unknown, not finite, or
      not of the shape and type that config.json implies.
  """
  made = describe(folder)
  folder = pathlib.Path(folder).expanduser()
  where = str(folder / 'config.json')
  found = find_tensors(folder, _current_name, STEM)
  if made.settings['blocks'] * len(made.settings['multipliers']) > len(found):
    raise ConfigError(f'{where} implies more residual blocks than there are tensors')
  check_tensors(found, tensor_shapes(made), where, ())
  params = jax.tree.map_with_path(
    lambda path, leaf: _load(found, path_name(path), leaf.shape), _shapes(made)
  )
  codebook = jnp.asarray(load_tensor(found[CODEBOOK])) if made.codes else None
  return made._replace(params=params, codebook=codebook)


def tensor_shapes(made: Published) -> dict[str, tuple[int, ...]]:
  """{public name: shape} of all tensors that a published autoencoder has."""
  shapes = {CODEBOOK: (made.codes, made.latent_channels)} if made.codes else {}
  for path, leaf in jax.tree.leaves_with_path(_shapes(made)):
    shapes |= _public(path_name(path), leaf.shape)
  return shapes


def _current_name(name: str) -> str:
  """The name that current files have for a tensor."""
  return re.sub(
    r'(?<=\.attentions\.0\.)(query|key|value|proj_attn)(?=\.)', lambda m: OLD_NAMES[m[1]], name
  )


def _shapes(made: Published) -> Any:
  """Shapes of the parameters of the network; no weights are allocated."""
  network, side = made.network(), made.network().factor
  x = jnp.zeros((1, side, side, made.channels))
  z = jnp.zeros((1, 1, 1, made.latent_channels))
  return jax.eval_shape(network.init, jax.random.key(0), x, z)['params']


def _public(path: str, shape: tuple[int, ...]) -> dict[str, tuple[int, ...]]:
  """{name: shape} of the tensors that hold one of our parameters: one, or three for q, k and v."""
  name = path
  for ours, theirs in MODULES:
    name = re.sub(ours, theirs, name)
  name = name.replace('/', '.')
  if '{}' in name:  # ours are [inputs, 3, heads, dim] and [3, heads, dim]; theirs [outputs, inputs]
    channels = shape[-1]
    one = (channels, channels) if len(shape) == 4 else (channels,)
    return {name.format(part): one for part in 'qkv'}
  if '/out/' in path:  # ours: [heads, dim, outputs]
    return {name: (shape[-1],) * (2 if len(shape) == 3 else 1)}
  if len(shape) == 4:  # ours: [rows, columns, inputs, outputs]
    return {name: (shape[3], shape[2], shape[0], shape[1])}
  return {name: shape}


def _load(found: Mapping[str, Stored], path: str, shape: tuple[int, ...]) -> Float[Array, '...']:
  """One of our parameters, from tensors whose shapes have been checked."""
  tensors = [load_tensor(found[name]) for name in _public(path, shape)]
  # Theirs have the outputs first: of a convolution [outputs, inputs, rows, columns].
  turned = [np.moveaxis(x.swapaxes(0, 1), (0, 1), (-2, -1)) if x.ndim > 1 else x for x in tensors]
  axis = 1 if len(shape) == 4 else 0
  joined = np.stack(turned, axis) if len(turned) > 1 else turned[0]
  return jnp.asarray(joined.reshape(shape))
