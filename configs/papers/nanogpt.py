"""nanoGPT: GPT-2 of 124M parameters, and Shakespeare by characters (Karpathy 2022).

twofold train --config=configs/papers/nanogpt.py:gpt2 --workdir=runs/gpt2 \
    --config.data.source=TEXTS/ --config.data.tokenizer_files=GPT2/
twofold train --config=configs/papers/nanogpt.py:shakespeare_char --workdir=runs/shakespeare \
    --config.data.source=tinyshakespeare.txt

gpt2 trains on text of your own, such as OpenWebText; GPT2/ holds the published `vocab.json` and
`merges.txt`. Its batch of 491,520 tokens is cut into 40 parts, for one device; on 8 devices,
--config.train.micro_batches=5 makes parts of the same size. The last two use tinyshakespeare,
1,115,394 characters.

Reproduces: the repository karpathy/nanoGPT (config/train_gpt2.py, config/train_shakespeare_char.py,
README.md); no paper.

To expect, not measured here, in nats per token or character of the validation split:

  gpt2                  about 2.85 on OpenWebText, after 4 days on 8 A100s
  shakespeare_char      1.4697, the best of the evaluations every 250 steps: `--step=best`
  shakespeare_char_cpu  1.88, after 3 minutes on a laptop

The repository evaluates 200 random batches (20 on a CPU); here the whole validation split counts,
so the best evaluation is less a matter of luck. As many random windows, though not from any
position, are --config.train.evaluate_examples=240 on a CPU, and 12800 otherwise.

What the repository does and this code does not yet:

- Windows start anywhere, independently of each other; here every 64th or 256th position begins one
  in each epoch, shifted by a random number of characters (data.shift).
- Texts are prepared in memory, up to 8 GiB of them: about a fifth of OpenWebText.
- It trains the outputs that pad the vocabulary to 50,304; here the softmax leaves them out.
"""

from ml_collections import ConfigDict

from common.config import merge, pick
from configs.autoregressive.base import get_base

COMMON = dict(
  seed=1337,
  data=dict(name='text', shift=True),
  ordering=dict(name='tokens'),
  network=dict(activation='gelu', bias=False),
  model=dict(start='none', tied=True),
  # Matrices are decayed, embeddings among them.
  optimizer=dict(name='adamw', b1=0.9, final=0.1, weight_decay=0.1, no_decay='(bias|scale)$'),
  ema=dict(decay=0.0, warmup=False),  # no average
  evaluation=dict(split='validation'),
)
CHARACTERS = dict(
  data=dict(tokenizer='characters', held_out='validation'),
  optimizer=dict(learning_rate=1e-3, warmup='100', b2=0.99, clip=1.0),
  # The best checkpoint is that with the least validation loss.
  train=dict(steps_per_call=10, log_every='50', evaluate_every='250', checkpoint_every='250'),
)

VARIANTS = {
  'gpt2': dict(
    precision='bfloat16',
    data=dict(tokenizer='gpt2', context=1024, batch_size=480),
    network=dict(width=768, layers=12, heads=12),
    head=dict(pad_to=64),  # 50,257 tokens become 50,304
    optimizer=dict(learning_rate=6e-4, warmup='2000', b2=0.95, clip=1.0),
    train=dict(
      steps='600000',
      steps_per_call=10,
      micro_batches=40,
      log_every='10',
      evaluate_every='1000',
      sample_every='10000',
      checkpoint_every='1000',
    ),
  ),
  'shakespeare_char': merge(
    CHARACTERS,
    dict(
      precision='bfloat16',
      data=dict(context=256, batch_size=64),
      network=dict(width=384, layers=6, heads=6, dropout=0.2),
      train=dict(steps='5000'),
    ),
  ),
  'shakespeare_char_cpu': merge(
    CHARACTERS,
    dict(
      data=dict(context=64, batch_size=12),
      network=dict(width=128, layers=4, heads=4),
      train=dict(steps='2000'),
    ),
  ),
}


def get_config(variant: str = 'gpt2') -> ConfigDict:
  """The config of a variant, a key of VARIANTS."""
  return ConfigDict(merge(get_base(), COMMON, pick(VARIANTS, variant, 'variant')))
