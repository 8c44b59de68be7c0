"""GGUF files: dequantised weights, their tokenizer, and what is refused."""

import json
import struct

import gguf
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from autoregressive.interop import weights
from autoregressive.interop.gguf_header import read_header
from autoregressive.networks.positions import rotary_frequencies
from common.config import ConfigError
from common.data.tokenizers.vocabularies import SPACE, Vocabulary
from tests.autoregressive.interop import tiny
from tests.cases import mostly_slow


@pytest.mark.parametrize('quantised', mostly_slow(['F32', 'Q8_0', 'Q4_1', 'F16'], ['Q4_1']))
def test_a_file_gives_the_dequantised_weights_with_tokenizer_and_template(quantised, tmp_path):
  made, path = tiny.model(), tmp_path / 'tiny.gguf'
  tensors = tiny.gguf_tensors(made)
  tiny.write(path, tensors, quantised=quantised)
  read = weights.read_published(path)
  assert read.kind == 'llama' and read.tied and (read.vocabulary, read.tokens) == (320, 300)
  assert read.network == dict(read.network) | tiny.NETWORK | {'head_dim': 0}
  kind, again = gguf.GGMLQuantizationType[quantised], tiny.gguf_tensors(read)
  assert tensors.keys() == again.keys()
  for name, values in tensors.items():
    if values.ndim == 2:
      values = gguf.dequantize(gguf.quants.quantize(values, kind), kind)
    np.testing.assert_array_equal(again[name], np.asarray(values, np.float32), err_msg=name)
  library, text = tiny.byte_pairs(), 'to be 2026 <|im_end|>, foxes\n'
  tokenizer = read.companions.tokenizer
  assert tokenizer.decode(tokenizer.encode(text)) == text
  assert tokenizer.encode_marked(text).tolist() == library.encode(text).ids
  assert 2 in tokenizer.encode_marked(text) and 2 not in tokenizer.encode(text)
  assert (tokenizer.separator, tokenizer.end_tokens) == (0, (0, 2))
  assert read.companions.template == tiny.TEMPLATE
  assert read.companions.special_tokens == {'bos_token': '<|im_start|>', 'eos_token': '<|im_end|>'}


@pytest.mark.parametrize(
  ('kind', 'changes'),
  [
    ('gpt2', {}),
    ('qwen2', dict(qkv_bias=True)),
    ('qwen3', dict(qk_norm=True, head_dim=12)),
  ],
)
def test_other_architectures_have_their_own_names_and_order(kind, changes, tmp_path):
  made, path = tiny.model(kind, **changes), tmp_path / 'tiny.gguf'
  keys = {'attention.key_length': changes['head_dim']} if 'head_dim' in changes else {}
  tiny.write(path, tiny.gguf_tensors(made), kind, 'F32', keys)
  read = weights.read_published(path)
  assert read.kind == kind
  jax.tree.map(np.testing.assert_array_equal, read.params, made.params)


def test_rotary_scalings_are_keys_or_factors(tmp_path):
  path, tensors = tmp_path / 'tiny.gguf', tiny.gguf_tensors(tiny.model())
  linear = {'rope.scaling.type': 'linear', 'rope.scaling.factor': 4.0}
  tiny.write(path, tensors, quantised='F32', keys=linear)
  assert weights.describe(path).network['rotary_scaling'] == ('linear', 4.0)
  scaling, base = ('llama3', 8.0, 8192, 1.0, 4.0), {'rope.freq_base': 5e5}
  factors = rotary_frequencies(8, 5e5) / rotary_frequencies(8, 5e5, scaling)
  more = tensors | {'rope_freqs.weight': factors.astype(np.float32)}
  tiny.write(path, more, quantised='F32', keys=base)
  assert weights.describe(path).network['rotary_scaling'] == scaling
  tiny.write(path, more, quantised='F32')  # another base: the factors are of no known setting
  with pytest.raises(ConfigError, match='which are not the factors of Llama'):
    weights.describe(path)
  tiny.write(path, tensors, quantised='F32', keys={'rope.scaling.type': 'longrope'})
  with pytest.raises(ConfigError, match=r"unknown rope.scaling.type in .*'longrope'"):
    weights.describe(path)


def test_values_can_be_rounded_to_bfloat16(tmp_path):
  made = tiny.model()
  tiny.write(tmp_path / 'tiny.gguf', tiny.gguf_tensors(made), quantised='F32')
  read = weights.read_published(tmp_path / 'tiny.gguf', 'bfloat16')
  expected = jax.tree.map(lambda x: x.astype(jnp.bfloat16).astype(jnp.float32), made.params)
  jax.tree.map(np.testing.assert_array_equal, read.params, expected)
  weights.write_published(read, tmp_path / 'out')
  config = json.loads((tmp_path / 'out' / 'config.json').read_text())
  assert config['torch_dtype'] == 'bfloat16'
  again = weights.read_published(tmp_path / 'out')
  jax.tree.map(np.testing.assert_array_equal, again.params, expected)


@pytest.mark.parametrize(
  ('settings', 'message'),
  [
    (dict(architecture='mamba'), "unknown general.architecture in .*'mamba'; .*known: gpt2, llama"),
    (dict(keys={'expert_count': 8}), 'is a mixture of 8 experts'),
    (dict(keys={'logit_scale': 8}), 'has an unknown key llama.logit_scale'),
    (dict(keys={'attention.sliding_window': 8}), 'has attention.sliding_window'),
    (dict(keys={'rope.dimension_count': 4}), 'rotates 4 of 8 dimensions'),
    (dict(leave_out=('token_embd.weight',)), 'has no tensor token_embd.weight'),
    (dict(leave_out=('blk.1.ffn_up.weight',)), "implies a tensor 'model.layers.1.mlp.up_proj.wei"),
  ],
)
def test_another_model_is_refused(settings, message, tmp_path):
  path = tmp_path / 'tiny.gguf'
  tiny.write(path, tiny.gguf_tensors(tiny.model()), quantised='F32', **settings)
  with pytest.raises(ConfigError, match=message) as error:
    weights.read_published(path)
  assert '\n' not in str(error.value) and 'tiny.gguf' in str(error.value)


def test_broken_files_and_other_quantisations_are_refused(tmp_path):
  path = tmp_path / 'tiny.gguf'
  tiny.write(path, tiny.gguf_tensors(tiny.model()))
  content = path.read_bytes()
  entry = read_header(path).tensors['blk.0.ffn_up.weight']
  # name, number of axes, axes: the type follows
  place = content.index(b'blk.0.ffn_up.weight') + len('blk.0.ffn_up.weight') + 4 + 16
  assert struct.unpack_from('<I', content, place)[0] == entry.kind
  other = gguf.GGMLQuantizationType.Q8_K.value
  for change, message in [
    (b'', 'is not a complete GGUF file'),
    (b'GGML' + content[4:], 'it does not begin with GGUF'),
    (content[:4] + b'\0\0\0\3' + content[8:], 'its version must be 2 or 3'),
    (content[:300], 'is not a complete GGUF file'),
    (content[:-4096], 'cannot be read'),
    (content[:place] + struct.pack('<I', other) + content[place + 4 :], "ffn_up.weight' is quant"),
    (content.replace(b'smollm', b'smillm'), "tokenizer.ggml.pre in .*'smillm'; did you mean"),
  ]:
    path.write_bytes(change)
    with pytest.raises(ConfigError, match=message) as error:
      weights.read_published(path)
    assert '\n' not in str(error.value) and 'tiny.gguf' in str(error.value)


def sentence_piece(**changes):
  """The vocabulary of a SentencePiece model: the higher score is merged first."""
  pieces = ['<unk>', '<s>', '</s>', *(f'<0x{i:02X}>' for i in range(256))]
  pieces += [SPACE, 'a', 'b', 'c', f'{SPACE}a', 'bc', f'{SPACE}ab', 'ab', f'{SPACE}abc']
  scores = [0.0] * 259 + [-10.0] * 4 + [-2.0, -1.0, -3.0, -0.5, -4.0]
  types = [2, 3, 3] + [6] * 256 + [1] * 9
  special = {'bos': 1, 'eos': 2, 'unknown': 0}
  made = Vocabulary('llama', '', pieces, types, (), scores, special, (2,), ('bos',), True)
  return made._replace(**changes).build('tiny.gguf')


def test_sentence_piece_merges_by_score_and_writes_unknown_characters_as_bytes():
  made = sentence_piece()
  names = lambda text: [made.library.id_to_token(int(i)) for i in made.encode(text)]
  # 'ab' has the highest score, then nothing joins the space to it but '▁ab'; 'c' comes last.
  assert names('abc') == [f'{SPACE}abc']
  assert names('bc a') == [SPACE, 'bc', f'{SPACE}a']
  assert names('é') == [SPACE, '<0xC3>', '<0xA9>']
  assert made.first_tokens == (1,) and made.end_tokens == (2,)
  for text in ('abc', 'bc a', 'a é\n', ' a'):
    assert made.decode(made.encode(text)) == text
  # Decoded alone, the drawn part would lose its space.
  given, drawn = made.encode_prompt('abc').tolist(), made.encode('a').tolist()
  assert made.decode(drawn) == 'a' and made.continuation(given, drawn) == ' a'
  whole = made.encode('é').tolist()
  assert made.continuation(whole[:2], whole[2:]) == 'é'  # cut in the middle of a character
  with pytest.raises(ConfigError, match='must have one score for each of the 268 tokens, got 1'):
    sentence_piece(scores=(1.0,))
