"""GGUF files: weights, often quantised, with their config, vocabulary and chat template.

Everything is given the names and the layout of `transformers`, so that the same reader checks it.
The package `gguf`, which the extra `weights` installs, dequantises the tensors.
"""

import dataclasses
import pathlib
import re
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from autoregressive.interop.gguf_header import Entry, read_header
from autoregressive.networks.positions import rotary_frequencies
from common.config import ConfigError, pick
from common.data.tokenizers.vocabularies import Vocabulary
from common.published.tensors import FLOATS, Stored

# {GGUF's name of a tensor: that of `transformers`}, without '.weight' and '.bias'.
LLAMA_OUTER = {'token_embd': 'model.embed_tokens', 'output_norm': 'model.norm', 'output': 'lm_head'}
LLAMA_BLOCK = {
  'attn_norm': 'input_layernorm',
  'attn_q': 'self_attn.q_proj',
  'attn_k': 'self_attn.k_proj',
  'attn_v': 'self_attn.v_proj',
  'attn_q_norm': 'self_attn.q_norm',
  'attn_k_norm': 'self_attn.k_norm',
  'attn_output': 'self_attn.o_proj',
  'ffn_norm': 'post_attention_layernorm',
  'ffn_gate': 'mlp.gate_proj',
  'ffn_up': 'mlp.up_proj',
  'ffn_down': 'mlp.down_proj',
}
GPT2_OUTER = {
  'token_embd': 'transformer.wte',
  'position_embd': 'transformer.wpe',
  'output_norm': 'transformer.ln_f',
  'output': 'lm_head',
}
GPT2_BLOCK = {
  'attn_norm': 'ln_1',
  'attn_qkv': 'attn.c_attn',
  'attn_output': 'attn.c_proj',
  'ffn_norm': 'ln_2',
  'ffn_up': 'mlp.c_fc',
  'ffn_down': 'mlp.c_proj',
}


class Architecture(NamedTuple):
  """How GGUF stores one kind of model.

  Attributes:
    public: the name of its class in `transformers`.
    outer, block: names of tensors outside and inside the blocks.
    prefix: of a block's tensors in `transformers`.
    interleaved: whether rows of queries and keys are in the order of pairs of neighbours.
    transposed: endings of matrices that `transformers` stores as [in, out].
  """

  public: str
  outer: Mapping[str, str]
  block: Mapping[str, str]
  prefix: str = 'model.layers'
  interleaved: bool = False
  transposed: tuple[str, ...] = ()


ARCHITECTURES: Mapping[str, Architecture] = {
  'llama': Architecture('LlamaForCausalLM', LLAMA_OUTER, LLAMA_BLOCK, interleaved=True),
  'qwen2': Architecture('Qwen2ForCausalLM', LLAMA_OUTER, LLAMA_BLOCK),
  'qwen3': Architecture('Qwen3ForCausalLM', LLAMA_OUTER, LLAMA_BLOCK),
  'gpt2': Architecture(
    'GPT2LMHeadModel',
    GPT2_OUTER,
    GPT2_BLOCK,
    prefix='transformer.h',
    transposed=('c_attn.weight', 'c_proj.weight', 'c_fc.weight'),
  ),
}
# Keys below the architecture's name that do not change the outputs, or are read elsewhere.
IGNORED = frozenset(
  """
  vocab_size block_count context_length embedding_length feed_forward_length attention.head_count
  attention.head_count_kv attention.key_length attention.value_length attention.causal
  attention.layer_norm_rms_epsilon attention.layer_norm_epsilon attention.sliding_window
  rope.dimension_count rope.freq_base rope.scaling.type rope.scaling.factor
  rope.scaling.original_context_length rope.scaling.attn_factor rope.scaling.finetuned
  rope.scaling.yarn_log_multiplier expert_count expert_used_count
  """.split()  # noqa: SIM905
)
LLAMA3_LENGTH = 8192  # the original length of Llama 3.1 and 3.2, which GGUF does not have


@dataclasses.dataclass(frozen=True)
class Packed(Stored):
  """A tensor in a GGUF file, dequantised when it is read.

  Attributes:
    entry: where it is.
    heads: 0, or the number of heads whose rows are in the order of pairs of neighbours.
    transposed: whether the public layout has it the other way round.
  """

  entry: Entry
  heads: int = 0
  transposed: bool = False

  def read(self) -> np.ndarray:
    values = _values(self.path, self.entry)
    if self.heads:
      # Rows (head, pair, which of the two) to (head, which, pair): halves are rotated here.
      split = values.reshape(self.heads, -1, 2, *values.shape[1:])
      values = split.swapaxes(1, 2).reshape(values.shape)
    return values.T if self.transposed else values


def _values(path: pathlib.Path, entry: Entry) -> np.ndarray:
  """The values of a tensor, float32. Raises ConfigError for a type that cannot be dequantised."""
  gguf = _library()
  try:
    kind = gguf.GGMLQuantizationType(entry.kind)
    block, size = gguf.GGML_QUANT_SIZES[kind]
    *rows, width = entry.axes[::-1]
    if width % block:
      raise ValueError(f'rows of {width} values are no whole number of blocks of {block}')
    shape = (*rows, width // block * size)
    packed = np.memmap(path, np.uint8, 'r', entry.start, shape)
    return np.asarray(gguf.dequantize(packed, kind), np.float32).reshape(entry.axes[::-1])
  except (ValueError, NotImplementedError, OSError) as error:
    raise ConfigError(f'{path}: tensor {entry.name!r} cannot be read: {error}') from error


class GGUF(NamedTuple):
  """A GGUF file.

  Attributes:
    config: what `config.json` of the same model would hold.
    tensors: by their public names.
    vocabulary: of its tokenizer.
    template: its chat template; '' if there is none.
  """

  config: dict[str, Any]
  tensors: dict[str, Stored]
  vocabulary: Vocabulary
  template: str


def read_gguf(path: pathlib.Path) -> GGUF:
  """Reads a file; the values of tensors are read only later.

  Raises:
    ConfigError: for a file that is broken, another architecture or quantisation, or a key that
      changes the outputs in a way that is not supported.
  """
  _library()  # missing: said before anything is read
  fields, entries = read_header(path)
  name = str(fields.get('general.architecture'))
  architecture = pick(ARCHITECTURES, name, f'general.architecture in {path}:')
  if fields.get('split.count', 1) > 1:
    raise ConfigError(f'{path} is one of {fields["split.count"]} parts; merge them into one file')
  own = {k.removeprefix(f'{name}.'): v for k, v in fields.items() if k.startswith(f'{name}.')}
  _check_keys(own, name, path)
  config = _config(name, own, fields, entries, path)
  factors = entries.pop('rope_freqs.weight', None)
  if factors is not None:
    config['rope_parameters'] = _llama3(_values(path, factors), config, path)
  _check_types(entries, path)
  tensors = {
    _public_name(entry.name, architecture): _stored(entry, architecture, config, path)
    for entry in entries.values()
  }
  template = str(fields.get('tokenizer.chat_template') or '')
  return GGUF(config, tensors, _vocabulary(fields), template)


def _library() -> Any:
  try:
    import gguf
  except ImportError:
    raise ConfigError(
      "GGUF files need the package `gguf`; install it with: pip install -e '.[weights]'"
    ) from None
  return gguf


def _check_keys(own: Mapping[str, Any], name: str, path: pathlib.Path) -> None:
  """Raises ConfigError for the first key that would change the outputs."""
  for key, value in own.items():
    if key not in IGNORED:
      raise ConfigError(f'{path} has an unknown key {name}.{key} ({value!s:.60})')
  if own.get('expert_count'):
    raise ConfigError(
      f'{path} is a mixture of {own["expert_count"]} experts, which is not supported'
    )


def _number(value: Any) -> Any:
  """A float32 as the shortest decimal that gives it again: 1e-05, not 9.999999747378752e-06."""
  return float(str(np.float32(value))) if isinstance(value, float) else value


def _config(
  name: str,
  own: Mapping[str, Any],
  fields: Mapping[str, Any],
  tensors: Mapping[str, Entry],
  path: pathlib.Path,
) -> dict[str, Any]:
  """The same as `config.json`."""
  if 'token_embd.weight' not in tensors:
    raise ConfigError(f'{path} has no tensor token_embd.weight')
  values = {key: _number(value) for key, value in own.items()}
  specials = {
    f'{role}_token_id': fields.get(f'tokenizer.ggml.{theirs}_token_id')
    for role, theirs in (('bos', 'bos'), ('eos', 'eos'), ('pad', 'padding'))
  }
  config = {
    'architectures': [ARCHITECTURES[name].public],
    'model_type': name,
    'vocab_size': tensors['token_embd.weight'].axes[1],
    'tie_word_embeddings': 'output.weight' not in tensors,
    **specials,
  }
  if name == 'gpt2':
    theirs = {
      'n_positions': 'context_length',
      'n_embd': 'embedding_length',
      'n_layer': 'block_count',
      'n_head': 'attention.head_count',
      'n_inner': 'feed_forward_length',
      'layer_norm_epsilon': 'attention.layer_norm_epsilon',
    }
    return config | {key: values.get(value) for key, value in theirs.items()}
  theirs = {
    'max_position_embeddings': 'context_length',
    'hidden_size': 'embedding_length',
    'num_hidden_layers': 'block_count',
    'num_attention_heads': 'attention.head_count',
    'num_key_value_heads': 'attention.head_count_kv',
    'intermediate_size': 'feed_forward_length',
    'rms_norm_eps': 'attention.layer_norm_rms_epsilon',
    'head_dim': 'attention.key_length',
    'rope_theta': 'rope.freq_base',
  }
  config |= {key: values.get(value) for key, value in theirs.items()}
  return config | _positions(values, config, path)


def _positions(
  values: Mapping[str, Any], config: Mapping[str, Any], path: pathlib.Path
) -> dict[str, Any]:
  """Rotary scaling and window."""
  width, heads = config['hidden_size'] or 0, config['num_attention_heads'] or 1
  dim = config['head_dim'] or width // heads
  if values.get('rope.dimension_count', dim) != dim:
    raise ConfigError(
      f'{path} rotates {values["rope.dimension_count"]} of {dim} dimensions of a head, which no '
      'layout here has'
    )
  if values.get('attention.sliding_window'):
    raise ConfigError(f'{path} has attention.sliding_window, which is not supported in GGUF files')
  kind = values.get('rope.scaling.type') or 'none'
  names = {
    'factor': 'rope.scaling.factor',
    'original_max_position_embeddings': 'rope.scaling.original_context_length',
    'attention_factor': 'rope.scaling.attn_factor',
  }
  known = {'none': (), 'linear': ('factor',), 'yarn': tuple(names)}
  chosen = pick(known, kind, f'rope.scaling.type in {path}:')
  scaling = {key: values.get(names[key]) for key in chosen}
  return {'rope_parameters': {'rope_type': kind} | scaling} if chosen else {}


def _llama3(factors: np.ndarray, config: Mapping[str, Any], path: pathlib.Path) -> dict[str, Any]:
  """The scaling of Llama 3.1, of which GGUF has only the factor of each pair of dimensions.

  Raises:
    ConfigError: for factors that are not those of its published settings.
  """
  dim, base = 2 * factors.size, config['rope_theta'] or 10_000.0
  factor = float(factors.max())
  made = rotary_frequencies(dim, base, ('llama3', factor, LLAMA3_LENGTH, 1.0, 4.0))
  if not np.allclose(rotary_frequencies(dim, base) / made, factors.ravel(), rtol=1e-4):
    raise ConfigError(
      f'{path} has rope_freqs.weight, which are not the factors of Llama 3.1 for {LLAMA3_LENGTH} '
      'positions; other factors are not supported'
    )
  return {
    'rope_type': 'llama3',
    'factor': factor,
    'original_max_position_embeddings': LLAMA3_LENGTH,
    'low_freq_factor': 1.0,
    'high_freq_factor': 4.0,
  }


def _public_name(name: str, architecture: Architecture) -> str:
  """The name in `transformers`; a name without one stays, and is refused as unknown later."""
  stem, _, ending = name.rpartition('.')
  if stem in architecture.outer:
    return f'{architecture.outer[stem]}.{ending}'
  match = re.fullmatch(r'blk\.(\d+)\.(.+)', stem)
  if match and match[2] in architecture.block:
    return f'{architecture.prefix}.{match[1]}.{architecture.block[match[2]]}.{ending}'
  return name


def _stored(
  entry: Entry, architecture: Architecture, config: Mapping[str, Any], path: pathlib.Path
) -> Packed:
  """A tensor of the file."""
  name, shape = _public_name(entry.name, architecture), entry.axes[::-1]
  transposed = name.endswith(architecture.transposed) and len(shape) == 2
  heads = 0
  if architecture.interleaved and name.endswith(('q_proj.weight', 'q_proj.bias')):
    heads = config['num_attention_heads']
  if architecture.interleaved and name.endswith(('k_proj.weight', 'k_proj.bias')):
    heads = config['num_key_value_heads'] or config['num_attention_heads']
  kind = _library().GGMLQuantizationType(entry.kind).name
  return Packed(
    path,
    entry.name,
    kind if kind in FLOATS else 'F32',
    shape[::-1] if transposed else shape,
    entry,
    heads,
    transposed,
  )


def _check_types(entries: Mapping[str, Entry], path: pathlib.Path) -> None:
  """Raises ConfigError for a type that cannot be dequantised; tries each on one block."""
  gguf = _library()
  for kind, name in {entry.kind: entry.name for entry in entries.values()}.items():
    try:
      known = gguf.GGMLQuantizationType(kind)
      block = np.zeros((1, gguf.GGML_QUANT_SIZES[known][1]), np.uint8)
      gguf.dequantize(block, known)
    except (ValueError, NotImplementedError) as error:
      raise ConfigError(
        f'{path}: tensor {name!r} is quantised in a way that cannot be read: {error}'
      ) from error


def _vocabulary(fields: Mapping[str, Any]) -> Vocabulary:
  """The tokenizer's part of the file."""
  get = {key.removeprefix('tokenizer.ggml.'): value for key, value in fields.items()}.get
  roles = {'bos': 'bos', 'eos': 'eos', 'unknown': 'unknown', 'pad': 'padding'}
  special = {role: get(f'{name}_token_id') for role, name in roles.items()}
  special = {role: int(token) for role, token in special.items() if token is not None}
  tokens = list(get('tokens') or ())
  ends = [get(f'{name}_token_id') for name in ('eos', 'eot', 'eom')]
  llama = get('model') == 'llama'
  return Vocabulary(
    model=str(get('model')),
    pre=str(get('pre') or ''),
    tokens=tokens,
    types=list(get('token_type') or ()),
    merges=list(get('merges') or ()),
    scores=list(get('scores') or ()),
    special=special,
    ends=[int(end) for end in dict.fromkeys(ends) if end is not None and end < len(tokens)],
    # llama.cpp's defaults, of files that do not say.
    adds=[role for role in ('bos', 'eos') if get(f'add_{role}_token', llama and role == 'bos')],
    space_prefix=bool(get('add_space_prefix', True)),
  )
