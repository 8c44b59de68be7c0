"""Llama 2 of 7B parameters, trained from random weights (Touvron et al. 2023).

twofold train --config=configs/papers/llama2.py:7B --workdir=runs/llama \
    --config.data.source=TEXTS/ --config.parallel.fsdp=64 --config.parallel.tensor=4

`parallel` is for 256 devices. Published weights are fine-tuned in another way: docs/running.md.

Reproduces: the pre-training of section 2 of the paper; 6,738,415,616 parameters. Settings: section
2.2 and table 1 of the paper; the shape of the network is that of a public model configuration.

To expect, not measured here: the paper shows the training perplexity only as a curve (figure 5).
MMLU, which is not measured by this code, is 45.3 (meta-llama/llama: MODEL_CARD.md).

Unspecified: the seed; the initialisation of the weights; which parameters are not decayed (here
biases, scales and embeddings); dropout (here none); precision; whether weights are averaged (here
they are not); and how often the loss is measured.

What the paper does and this code does not yet:

- Its tokens are a SentencePiece vocabulary of 32,000; here byte pairs of the same number are
  trained on the text.
- It trains on 2 trillion tokens; here texts are prepared in memory, up to 8 GiB of them.
"""

from ml_collections import ConfigDict

from common.config import merge, pick
from configs.autoregressive.base import get_base

VARIANTS = {
  '7B': dict(
    # 4M tokens in a batch: 1,024 windows of 4,096
    data=dict(name='text', tokenizer='bpe', vocabulary=32_000, context=4096, batch_size=1024),
    ordering=dict(name='tokens'),
    network=dict(
      width=4096,
      layers=32,
      heads=32,
      mlp_width=11_008,
      activation='swiglu',
      norm='rms',
      norm_eps=1e-5,
      positions='rotary',
      bias=False,
      scan=True,
      remat='nothing',
    ),
    model=dict(start='none'),
    optimizer=dict(
      name='adamw',
      learning_rate=3e-4,
      warmup='2000',
      final=0.1,
      b2=0.95,
      eps=1e-5,
      weight_decay=0.1,
      clip=1.0,
    ),
    ema=dict(decay=0.0, warmup=False),  # no average
    train=dict(
      steps='476837',  # 2.0 trillion tokens
      steps_per_call=1,
      log_every='10',
      evaluate_every='1000',
      sample_every='10000',
      checkpoint_every='1000',
    ),
  ),
}


def get_config(variant: str = '7B') -> ConfigDict:
  """The config of a variant, a key of VARIANTS."""
  return ConfigDict(merge(get_base(), pick(VARIANTS, variant, 'variant')))
