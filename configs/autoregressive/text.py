"""A causal transformer that writes: characters, bytes or byte pairs of a text.

python -m experiments.train --config=configs/autoregressive/text.py:shakespeare_char \\
  --workdir=runs/shakespeare

  python -m experiments.prepare_data --dataset=shakespeare   (once)
  python -m experiments.sample --workdir=runs/shakespeare --prompt="ROMEO" --length=300

To expect on a 2-core CPU machine (2026-11-22):

  shakespeare_char  806,528 parameters; validation loss 1.780 nats per character, 2.567 bits
                    (docs/shakespeare.md)
  the others        not measured yet
"""

from ml_collections import ConfigDict

from configs.autoregressive import base

SMALL = dict(width=128, layers=4, heads=4, bias=False)  # nanoGPT's setting for a CPU
MEDIUM = dict(width=384, layers=6, heads=6, bias=False, dropout=0.2)  # and for a GPU
VARIANTS = {  # dataset, tokenizer, context, batch size, steps, network
  'shakespeare_char': ('shakespeare', 'characters', 64, 12, '2000', SMALL),
  'shakespeare_char_large': ('shakespeare', 'characters', 256, 64, '5000', MEDIUM),
  'shakespeare_bpe': ('shakespeare', 'bpe', 64, 12, '2000', SMALL),
  'python_bytes': ('python_code', 'bytes', 64, 12, '2000', SMALL),
  'file': ('text', 'bytes', 64, 12, '2000', SMALL),
}


def get_config(variant: str = 'shakespeare_char') -> ConfigDict:
  """The config of a variant, a key of VARIANTS."""
  if variant not in VARIANTS:
    raise ValueError(f'unknown variant {variant!r}; known: {", ".join(VARIANTS)}')
  name, tokenizer, context, batch_size, steps, network = VARIANTS[variant]
  config = base.get_base()
  config.data.update(name=name, tokenizer=tokenizer, context=context, batch_size=batch_size)
  config.ordering = ConfigDict(dict(name='tokens'))
  config.network.update(network)
  config.model.update(start='none', tied=True)
  config.optimizer.update(
    learning_rate=1e-3, final=0.1, warmup='5%', b1=0.9, b2=0.99, weight_decay=0.1
  )
  config.train.update(steps=steps, steps_per_call=20, evaluate_every='25%', sample_every='50%')
  config.ema.update(decay=0.0, warmup=False)  # as published: no average
  return config
