"""A tiny language model in a GGUF file, written by the package `gguf`."""

import functools
import json

import gguf
import jax
import jax.numpy as jnp
import numpy as np
import tokenizers as library

from autoregressive.interop.gguf_files import LLAMA_BLOCK, LLAMA_OUTER
from autoregressive.interop.weights import Published, export_tensors
from tests.autoregressive.common import perturbed

TEXT = 'the quick brown fox jumps over the lazy dog in 2026; to be or not to be. ' * 4
ENDS = ('<|endoftext|>', '<|im_start|>', '<|im_end|>')
TEMPLATE = (
  "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\\n' + m['content'] + '<|im_end|>\\n' }}"
  "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)
WIDTH, VOCABULARY = 32, 320
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


@functools.cache
def model(kind='llama', **changes):
  """A model of random weights."""
  network = NETWORK | changes
  made = Published(kind, network, True, VOCABULARY, None)
  params = jax.jit(made.model().init)(jax.random.key(0), jnp.zeros((1, 2, 1), jnp.int32))
  return made._replace(params=perturbed(params['params'], 0.2))


def write(path, tensors, architecture='llama', quantised='Q8_0', keys=None, leave_out=()):
  """Writes tensors [public name: values] with a vocabulary.

  Args:
    path: the file.
    tensors: under GGUF's names, in GGUF's order of rows.
    architecture: the value of general.architecture.
    quantised: type of the matrices.
    keys: more keys below the architecture, whole numbers.
    leave_out: names of tensors to leave out.
  """
  writer = gguf.GGUFWriter(path, architecture)
  writer.add_context_length(NETWORK['length'])
  writer.add_embedding_length(WIDTH)
  writer.add_block_count(NETWORK['layers'])
  writer.add_feed_forward_length(NETWORK['mlp_width'])
  writer.add_head_count(NETWORK['heads'])
  writer.add_head_count_kv(NETWORK['kv_heads'])
  writer.add_layer_norm_rms_eps(NETWORK['norm_eps'])
  writer.add_rope_freq_base(NETWORK['rotary_base'])
  for key, value in (keys or {}).items():
    writer.add_uint32(f'{architecture}.{key}', value)
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


def gguf_tensors(made, interleaved=True):
  """A model's tensors under GGUF's names; rows of queries and keys interleaved as there, or not."""
  names = {theirs: ours for ours, theirs in (LLAMA_OUTER | LLAMA_BLOCK).items()}
  tensors = {}
  for name, value in export_tensors(made).items():
    stem, _, ending = name.rpartition('.')
    values = np.asarray(value, np.float32)
    if interleaved and stem.endswith(('q_proj', 'k_proj')):
      heads = NETWORK['heads'] if stem.endswith('q_proj') else NETWORK['kv_heads']
      values = values.reshape(heads, 2, -1, *values.shape[1:]).swapaxes(1, 2).reshape(values.shape)
    if stem.startswith('model.layers.'):
      _, _, number, inner = stem.split('.', 3)
      tensors[f'blk.{number}.{names[inner]}.{ending}'] = values
    else:
      tensors[f'{names[stem]}.{ending}'] = values
  return tensors
