"""Published weights as `transformers` makes them: read into a run, used, and written back."""

import json

import jax
import numpy as np
import pytest

from common.data.tokenizers import chat_template
from common.method import Request
from experiments import convert, families, runs
from tests.autoregressive.common import outputs_of
from tests.autoregressive.interop import tiny

pytestmark = pytest.mark.peers

ROWS = 352  # of a table that is padded beyond the vocabulary
SIZES = dict(
  hidden_size=32,
  num_hidden_layers=2,
  num_attention_heads=4,
  num_key_value_heads=2,
  intermediate_size=64,
  max_position_embeddings=128,
)
KINDS = {
  'gpt2': dict(n_embd=32, n_layer=2, n_head=4, n_positions=128),
  'llama': SIZES,
  'mistral': SIZES | dict(sliding_window=16, head_dim=8),
  'qwen2': SIZES | dict(tie_word_embeddings=True),
  'qwen3': SIZES | dict(head_dim=12),
  'phi3': SIZES | dict(rope_parameters=dict(rope_theta=1e4, partial_rotary_factor=0.5)),
}


def save(kind, folder):
  """A random model in bfloat16, in several files, with a tokenizer and a chat template."""
  torch, transformers = pytest.importorskip('torch'), pytest.importorskip('transformers')
  torch.manual_seed(0)
  ids = dict(bos_token_id=1, eos_token_id=2, pad_token_id=0)
  config = transformers.AutoConfig.for_model(kind, vocab_size=ROWS, **KINDS[kind], **ids)
  model = transformers.AutoModelForCausalLM.from_config(config)
  for parameter in model.parameters():  # away from 0 and 1, where they start
    parameter.data.add_(0.2 * torch.randn_like(parameter))
  model.generation_config.eos_token_id = [2, 0]
  model.generation_config.temperature = 0.6
  model.generation_config.do_sample = True
  model.to(torch.bfloat16).save_pretrained(folder, max_shard_size='40KB')
  tokenizer = transformers.PreTrainedTokenizerFast(
    tokenizer_object=tiny.byte_pairs(), bos_token='<|im_start|>', eos_token='<|im_end|>'
  )
  tokenizer.chat_template = tiny.TEMPLATE
  tokenizer.save_pretrained(folder)
  # Settings of short inputs, which must not cut the texts of a run.
  stored = json.loads((folder / 'tokenizer.json').read_text())
  stored['truncation'] = dict(direction='Right', max_length=3, strategy='LongestFirst', stride=0)
  (folder / 'tokenizer.json').write_text(json.dumps(stored))
  return torch, transformers


@pytest.mark.parametrize('kind', KINDS)
def test_a_model_of_transformers_becomes_a_run_and_goes_back_as_it_came(kind, tmp_path):
  torch, transformers = save(kind, tmp_path / 'theirs')
  config = families.load_config('configs/autoregressive/published.py', {})
  convert.read(str(tmp_path / 'theirs'), config, tmp_path / 'run')
  run = runs.load(tmp_path / 'run')
  spec = run.data.spec
  assert (spec.levels, spec.shape) == (tiny.VOCABULARY, (129,))
  assert spec.tokenizer.end_tokens == (0, 2)

  def theirs(folder):
    return transformers.AutoModelForCausalLM.from_pretrained(
      tmp_path / folder, dtype=torch.float32, attn_implementation='eager'
    ).eval()

  model = theirs('theirs')
  messages = [{'role': 'user', 'content': 'to be or not, 2026?'}]
  template = chat_template.read(tmp_path / 'run')
  given = chat_template.encode(template, spec.tokenizer, messages)
  made = model.generate(
    torch.tensor(given[None].astype(np.int64)),
    do_sample=False,
    max_new_tokens=64,
    min_new_tokens=64,
    eos_token_id=None,
    pad_token_id=0,
    suppress_tokens=list(range(tiny.VOCABULARY, ROWS)),  # rows that no token has
  ).numpy()
  with torch.no_grad():
    expected = model(torch.tensor(made)).logits.numpy()
  logits = outputs_of(run.method.model, run.params, np.pad(made, ((0, 0), (0, 1)))[..., None])
  np.testing.assert_allclose(logits, expected, atol=1e-3)
  # Each token of the continuation is the most probable one after those before it.
  best = logits[0, given.size - 1 : -1, : tiny.VOCABULARY].argmax(-1)
  np.testing.assert_array_equal(best, made[0, given.size :])
  if kind == 'qwen3':  # so that one kind is decoded with a cache, token by token
    options = dict(greedy=True, length=made.shape[1])
    request = Request(1, past=given[None], options=options)
    ours = run.method.draw(run.params, jax.random.key(0), request)
    np.testing.assert_array_equal(np.asarray(ours.x)[:, : made.shape[1]], made)

  convert.write(run, tmp_path / 'run', tmp_path / 'again')
  with torch.no_grad():
    again = theirs('again')(torch.tensor(made)).logits.numpy()
  np.testing.assert_array_equal(again, expected)
  for file in ('config.json', 'generation_config.json', 'tokenizer_config.json'):
    before, after = (json.loads((tmp_path / x / file).read_text()) for x in ('theirs', 'again'))
    assert {k: v for k, v in before.items() if v is not None} == after, file
  for file in ('tokenizer.json', 'chat_template.jinja'):
    assert (tmp_path / 'theirs' / file).read_text() == (tmp_path / 'again' / file).read_text()
  tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path / 'again')
  text = tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
  assert text == chat_template.render(template, messages)
