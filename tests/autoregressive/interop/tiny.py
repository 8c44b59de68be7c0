"""A tiny language model in a GGUF file, written by the package `gguf`."""

import functools
import json

import gguf
import jax
import jax.numpy as jnp
import numpy as np
import tokenizers as library

from autoregressive.interop.gguf_files import ARCHITECTURES
from autoregressive.interop.weights import Published, export_tensors

TEXT = 'the quick brown fox jumps over the lazy dog in 2026; to be or not to be. ' * 4
ENDS = ('<|endoftext|>', '<|im_start|>', '<|im_end|>')
TEMPLATE = (
  "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\\n' + m['content'] + '<|im_end|>\\n' }}"
  "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)
WIDTH, VOCABULARY = 32, 300
ROWS = 320  # of the embedding, which is padded
NETWORK = dict(
  length=64,
  width=WIDTH,
  layers=2,
  heads=4,
  kv_heads=2,
  mlp_width=64,
  activation='swiglu',
  norm='rms',
  norm_eps=1e-5,
  positions='rotary',
  rotary_base=1e4,
  bias=False,
)


@functools.cache
def byte_pairs():
  """Byte pairs with SmolLM's way of splitting, as the library makes them."""
  made = library.Tokenizer(library.models.BPE())
  pre = library.pre_tokenizers
  made.pre_tokenizer = pre.Sequence([pre.Digits(True), pre.ByteLevel(add_prefix_space=False)])
  made.decoder = library.decoders.ByteLevel()
  trainer = library.trainers.BpeTrainer(
    vocab_size=VOCABULARY,
    special_tokens=list(ENDS),
    initial_alphabet=sorted(pre.ByteLevel.alphabet()),
    show_progress=False,
  )
  made.train_from_iterator([TEXT], trainer)
  return made


GPT2 = dict(length=64, width=WIDTH, layers=2, heads=4, mlp_width=64)


@functools.cache
def model(kind='llama', **changes):
  """A model of random weights."""
  network = (GPT2 if kind == 'gpt2' else NETWORK) | changes
  made = Published(kind, network, True, ROWS, None)
  tokens = jax.ShapeDtypeStruct((1, 2, 1), jnp.int32)
  shapes = jax.eval_shape(made.model().init, jax.random.key(0), tokens)['params']
  rng = np.random.default_rng(0)  # without JAX, which would compile for each shape
  values = jax.tree.map(lambda x: rng.normal(0.1, 0.3, x.shape).astype(np.float32), shapes)
  return made._replace(params=jax.tree.map(jnp.asarray, values))


def write(path, tensors, architecture='llama', quantised='Q8_0', keys=None, leave_out=()):
  """Writes a file with a vocabulary.

  Args:
    path: the file.
    tensors: {GGUF's name: values in GGUF's order of rows}.
    architecture: the value of general.architecture.
    quantised: type of the matrices.
    keys: more keys below the architecture: whole numbers, numbers and texts.
    leave_out: names of tensors to leave out.
  """
  writer = gguf.GGUFWriter(path, architecture)
  numbers = {
    'context_length': NETWORK['length'],
    'embedding_length': WIDTH,
    'block_count': NETWORK['layers'],
    'feed_forward_length': NETWORK['mlp_width'],
    'attention.head_count': NETWORK['heads'],
    'attention.head_count_kv': NETWORK['kv_heads'],
    'attention.layer_norm_rms_epsilon': NETWORK['norm_eps'],
    'rope.freq_base': NETWORK['rotary_base'],
  }
  if architecture == 'gpt2':
    numbers = {k: v for k, v in numbers.items() if 'kv' not in k and 'rope' not in k}
    numbers['attention.layer_norm_epsilon'] = numbers.pop('attention.layer_norm_rms_epsilon')
  add = {int: writer.add_uint32, float: writer.add_float32, str: writer.add_string}
  for key, value in (numbers | (keys or {})).items():
    add[type(value)](f'{architecture}.{key}', value)
  add_vocabulary(writer)
  kind = gguf.GGMLQuantizationType[quantised]
  for name, values in tensors.items():
    if name in leave_out:
      continue
    if values.ndim == 2 and quantised != 'F32':
      writer.add_tensor(name, gguf.quants.quantize(values, kind), raw_dtype=kind)
    else:
      writer.add_tensor(name, values)
  writer.write_header_to_file()
  writer.write_kv_data_to_file()
  writer.write_tensors_to_file()
  writer.close()


def add_vocabulary(writer):
  """The byte pairs of `byte_pairs`, and the chat template."""
  made = byte_pairs()
  ids = sorted(made.get_vocab().items(), key=lambda item: item[1])
  merges = json.loads(made.to_str())['model']['merges']
  writer.add_tokenizer_model('gpt2')
  writer.add_tokenizer_pre('smollm')
  writer.add_token_list([name for name, _ in ids])
  writer.add_token_types([3 if name in ENDS else 1 for name, _ in ids])
  writer.add_token_merges([' '.join(pair) for pair in merges])
  writer.add_bos_token_id(1)
  writer.add_eos_token_id(2)
  writer.add_chat_template(TEMPLATE)


def gguf_tensors(made):
  """A model's tensors as a GGUF file has them: names, order of rows, [outputs, inputs]."""
  kind = ARCHITECTURES[made.kind]
  names = {theirs: ours for ours, theirs in (kind.outer | kind.block).items()}
  tensors = {}
  for name, value in export_tensors(made).items():
    stem, _, ending = name.rpartition('.')
    values = np.asarray(value, np.float32)
    if kind.interleaved and stem.endswith(('q_proj', 'k_proj')):
      values = interleaved(values, NETWORK['heads' if stem.endswith('q_proj') else 'kv_heads'])
    if name.endswith(kind.transposed):
      values = np.ascontiguousarray(values.T)
    if stem.startswith(kind.prefix):
      number, inner = stem.removeprefix(f'{kind.prefix}.').split('.', 1)
      tensors[f'blk.{number}.{names[inner]}.{ending}'] = values
    else:
      tensors[f'{names[stem]}.{ending}'] = values
  return tensors


def interleaved(values, heads):
  """Rows of (head, half, pair) as (head, pair, half)."""
  return values.reshape(heads, 2, -1, *values.shape[1:]).swapaxes(1, 2).reshape(values.shape)
