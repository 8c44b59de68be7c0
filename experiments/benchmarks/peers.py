"""The same models in PyTorch: recurrent networks, GPT-2 of transformers, the U-Net of diffusers.

Only `experiments.benchmark` imports this module, and only if the `peers` extra is installed.
"""

from collections.abc import Callable

import diffusers
import torch
import transformers

torch.set_num_threads(max(torch.get_num_threads(), 1))


def gpt2(vocabulary: int, length: int, width: int, layers: int, heads: int) -> torch.nn.Module:
  """A GPT-2 without dropout."""
  config = transformers.GPT2Config(
    vocab_size=vocabulary,
    n_positions=length,
    n_embd=width,
    n_layer=layers,
    n_head=heads,
    resid_pdrop=0.0,
    embd_pdrop=0.0,
    attn_pdrop=0.0,
    bos_token_id=0,
    eos_token_id=None,
    pad_token_id=0,
  )
  return transformers.GPT2LMHeadModel(config)


class Recurrent(torch.nn.Module):
  """A language model with a recurrent network of PyTorch, which has two biases for each gate.

  Args:
    name: 'lstm', 'gru' or 'rnn'.
    vocabulary, width, layers: sizes.
  """

  def __init__(self, name: str, vocabulary: int, width: int, layers: int):
    super().__init__()
    self.embedding = torch.nn.Embedding(vocabulary, width)
    network = {'lstm': torch.nn.LSTM, 'gru': torch.nn.GRU, 'rnn': torch.nn.RNN}[name]
    self.network = network(width, width, layers, batch_first=True)
    self.output = torch.nn.Linear(width, vocabulary, bias=False)

  def forward(self, tokens):
    return self.output(self.network(self.embedding(tokens))[0])


def unet(size: int, width: int, blocks: int) -> torch.nn.Module:
  """DDPM's U-Net with two resolutions and attention at the lower one."""
  return diffusers.UNet2DModel(
    sample_size=size,
    in_channels=3,
    out_channels=3,
    layers_per_block=blocks,
    block_out_channels=(width, 2 * width),
    down_block_types=('DownBlock2D', 'AttnDownBlock2D'),
    up_block_types=('AttnUpBlock2D', 'UpBlock2D'),
    attention_head_dim=None,
    norm_num_groups=16,
    flip_sin_to_cos=False,
    freq_shift=1,
    downsample_padding=0,
  )


def parameters(model: torch.nn.Module) -> int:
  """The number of parameters; tied parameters count once."""
  return sum(p.numel() for p in model.parameters())


def train_gpt2(model, tokens, compiled: bool) -> Callable[[], None]:
  """A call that takes one step of AdamW on `tokens` [batch, length]."""
  tokens = torch.as_tensor(tokens, dtype=torch.long)

  def loss(network):
    return _next_token_loss(network(tokens, use_cache=False).logits, tokens)

  return _step(model, loss, compiled)


def train_recurrent(model: Recurrent, tokens) -> Callable[[], None]:
  """A call that takes one step of AdamW on `tokens` [batch, length]."""
  tokens = torch.as_tensor(tokens, dtype=torch.long)

  def loss(network):
    return _next_token_loss(network(tokens), tokens)

  return _step(model, loss, compiled=False)


def _next_token_loss(logits, tokens):
  # Position i predicts token i + 1.
  return torch.nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), tokens[:, 1:].flatten())


def train_unet(model, images, compiled: bool) -> Callable[[], None]:
  """A call that takes one step of AdamW: predict the noise in `images` [batch, 3, size, size]."""
  images = torch.as_tensor(images)
  schedule = diffusers.DDPMScheduler()

  def loss(network):
    noise = torch.randn_like(images)
    t = torch.randint(0, 1000, (len(images),))
    estimate = network(schedule.add_noise(images, noise, t), t).sample
    return torch.nn.functional.mse_loss(estimate, noise)

  return _step(model, loss, compiled)


def _step(model, loss, compiled: bool) -> Callable[[], None]:
  optimizer = torch.optim.AdamW(model.parameters(), 1e-4)
  network = torch.compile(model) if compiled else model
  model.train()

  def step() -> None:
    optimizer.zero_grad(set_to_none=True)
    loss(network).backward()
    # As in our own step.
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()

  return step


def sample_ddim(model, num: int, steps: int) -> Callable[[], None]:
  """A call that draws `num` images with diffusers' DDIM pipeline."""
  pipeline = diffusers.DDIMPipeline(model.eval(), diffusers.DDIMScheduler())
  pipeline.set_progress_bar_config(disable=True)

  def draw() -> None:
    pipeline(batch_size=num, num_inference_steps=steps, output_type='np')

  return draw


def generate(model, batch: int, tokens: int) -> Callable[[], None]:
  """A call that samples `tokens` tokens for each example of a batch, with transformers' cache."""
  model.eval()
  prompt = torch.zeros((batch, 1), dtype=torch.long)

  def draw() -> None:
    model.generate(
      prompt,
      attention_mask=torch.ones_like(prompt),
      max_new_tokens=tokens,
      min_new_tokens=tokens,
      do_sample=True,
      top_k=0,
      use_cache=True,
    )

  return draw
