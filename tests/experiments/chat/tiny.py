"""A tiny language model of random weights with a tokenizer and a chat template."""

import functools
import json

import jax
import jax.numpy as jnp

from autoregressive.decoding.settings import DecodingSettings
from autoregressive.decoding.stepwise import Session
from autoregressive.method import build_model
from common.checkpoints.checkpoints import Checkpoints
from common.data import tokenizers
from common.data.spec import DataSpec
from common.data.tokenizers.byte_pairs import BytePairs
from common.data.tokenizers.chat_template import ChatTemplate
from experiments.chat.conversation import Conversation, Format
from tests.autoregressive.common import perturbed, small_config

TEMPLATE = (
  '{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}'
  '{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}'
)


@functools.cache
def tokenizer() -> BytePairs:
  """Bytes, a few pairs of them, and the marks of turns."""
  settings = dict(tokenizer='bpe', vocabulary=270)
  made = tokenizers.build_tokenizer(settings, ['the user and the assistant say hello'])
  library = made.library
  library.add_special_tokens(['<|im_start|>', '<|im_end|>'])
  return BytePairs(library.to_str(), ('<|im_end|>',))


def config(context=256):
  """A config without data."""
  return small_config(
    ordering=dict(name='tokens'),
    data__name='none',
    data__tokenizer='files',
    data__context=context,
    network__width=16,
    network__layers=1,
    network__heads=2,
    network__positions='rotary',
    model__start='none',
  )


@functools.cache
def model(context=256):
  """(model, parameters)."""
  spec = DataSpec('none', 'text', (context + 1,), tokenizer().vocabulary, tokenizer=tokenizer())
  _, made = build_model(config(context), spec)
  params = jax.jit(made.init)(jax.random.key(0), jnp.zeros((1, 4, 1), jnp.int32))['params']
  return made, perturbed(params, 0.1)


def conversation(context=256, system='', template=TEMPLATE, **settings):
  """A conversation with the tiny model."""
  made, params = model(context)
  chosen = DecodingSettings(**settings)
  session = Session(made, context + 1, params, chosen, jax.random.key(0), least_room=64)
  return Conversation(Format(ChatTemplate(template), tokenizer()), session, system)


def save(workdir):
  """A run of the tiny model in a folder."""
  _, params = model()
  workdir.mkdir(parents=True)
  (workdir / 'config.json').write_text(json.dumps(config()))
  (workdir / 'tokenizer.json').write_text(tokenizers.to_json(tokenizer()))
  (workdir / 'chat_template.jinja').write_text(TEMPLATE)
  with Checkpoints(workdir / 'checkpoints') as checkpoints:
    checkpoints.save(0, {'ema': params}, config=config(), position={'step': 0, 'examples': 0})
  return workdir
