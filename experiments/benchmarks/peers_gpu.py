"""The contenders of the GPU suite in PyTorch, diffusers and transformers.

Training: `torch.compile`, bfloat16 by autocast, fused attention (SDPA), fused AdamW, and for the
U-Net channels last. Models have the sizes of our own configs. Only processes of the GPU suite
import this module (isolated.py); diffusers and transformers only where a contender needs them.
"""

import dataclasses
import functools
from collections.abc import Callable

import torch
from torch.nn import functional

from common.data.spec import DataSpec
from experiments.benchmarks.gpu import COMPILED, STEPS, Work, decoding_bytes

DEVICE = 'cuda' if torch.cuda.is_available() else 'cpu'
torch.set_float32_matmul_precision('high')
torch.backends.cudnn.benchmark = True


def peak_memory() -> int | None:
  """The most bytes that PyTorch has had in use; None on a CPU."""
  return torch.cuda.max_memory_allocated() if DEVICE == 'cuda' else None


def wait() -> None:
  """Returns once the device has done all its work."""
  if DEVICE == 'cuda':
    torch.cuda.synchronize()


def work(
  call: Callable[[], None], units: float, model: torch.nn.Module, bytes_read: float = 0.0
) -> Work:
  """The work of a contender; tied parameters count once."""
  parameters = sum(p.numel() for p in model.parameters())
  return Work(call, units, parameters, bytes=bytes_read, peak_memory=peak_memory)


def autocast() -> torch.autocast:
  """Products and convolutions in bfloat16."""
  return torch.autocast(DEVICE, torch.bfloat16)


# Models; `forward` returns the loss of a batch.


class Attention(torch.nn.Module):
  """Self-attention by PyTorch's fused kernels."""

  def __init__(self, width: int, heads: int, bias: bool, causal: bool):
    super().__init__()
    self.heads, self.causal = heads, causal
    self.qkv = torch.nn.Linear(width, 3 * width, bias)
    self.out = torch.nn.Linear(width, width, bias)

  def forward(self, x: torch.Tensor) -> torch.Tensor:
    # [batch, length, 3 · heads · dim] to query, key, value [batch, heads, length, dim]
    qkv = self.qkv(x).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
    mixed = functional.scaled_dot_product_attention(*qkv, is_causal=self.causal)
    return self.out(mixed.transpose(1, 2).flatten(2))


class MLP(torch.nn.Module):
  """Two layers with a GELU (tanh) between them."""

  def __init__(self, width: int, bias: bool):
    super().__init__()
    self.up = torch.nn.Linear(width, 4 * width, bias)
    self.down = torch.nn.Linear(4 * width, width, bias)

  def forward(self, x: torch.Tensor) -> torch.Tensor:
    return self.down(functional.gelu(self.up(x), approximate='tanh'))


class GPTBlock(torch.nn.Module):
  """A layer of GPT-2 without biases."""

  def __init__(self, width: int, heads: int):
    super().__init__()
    self.attention_norm = torch.nn.LayerNorm(width, bias=False)
    self.attention = Attention(width, heads, bias=False, causal=True)
    self.mlp_norm = torch.nn.LayerNorm(width, bias=False)
    self.mlp = MLP(width, bias=False)

  def forward(self, h: torch.Tensor) -> torch.Tensor:
    h = h + self.attention(self.attention_norm(h))
    return h + self.mlp(self.mlp_norm(h))


class GPT(torch.nn.Module):
  """GPT-2 without biases and with tied embeddings, and its next-token loss."""

  def __init__(self, vocabulary: int, length: int, width: int, layers: int, heads: int):
    super().__init__()
    self.tokens = torch.nn.Embedding(vocabulary, width)
    self.positions = torch.nn.Embedding(length, width)
    self.blocks = torch.nn.Sequential(*(GPTBlock(width, heads) for _ in range(layers)))
    self.norm = torch.nn.LayerNorm(width, bias=False)
    for table in (self.tokens, self.positions):
      torch.nn.init.normal_(table.weight, std=0.02)

  def forward(self, tokens: torch.Tensor) -> torch.Tensor:
    h = self.tokens(tokens[:, :-1]) + self.positions.weight
    logits = functional.linear(self.norm(self.blocks(h)), self.tokens.weight)
    return functional.cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten())


class DiTBlock(torch.nn.Module):
  """A layer of DiT with adaLN-Zero (Peebles & Xie 2022, section 3.2)."""

  def __init__(self, width: int, heads: int):
    super().__init__()
    self.attention = Attention(width, heads, bias=True, causal=False)
    self.mlp = MLP(width, bias=True)
    self.modulation = torch.nn.Linear(width, 6 * width)

  def forward(self, h: torch.Tensor, condition: torch.Tensor) -> torch.Tensor:
    parts = self.modulation(functional.silu(condition))[:, None].chunk(6, -1)
    shift, scale, gate, mlp_shift, mlp_scale, mlp_gate = parts
    h = h + gate * self.attention(modulate(h, shift, scale))
    return h + mlp_gate * self.mlp(modulate(h, mlp_shift, mlp_scale))


def modulate(h: torch.Tensor, shift: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
  """A layer norm without weights, scaled and shifted by the condition."""
  return functional.layer_norm(h, h.shape[-1:], eps=1e-6) * (1 + scale) + shift


class DiT(torch.nn.Module):
  """DiT, which predicts noise and variance of latents, and its loss."""

  FREQUENCIES = 256

  def __init__(self, shape: tuple[int, ...], classes: int, network: dict):
    super().__init__()
    width, heads, patch = network['width'], network['heads'], network['patch']
    height, _, channels = shape
    self.embed = torch.nn.Conv2d(channels, width, patch, patch)
    positions = torch.randn(1, (height // patch) ** 2, width)
    self.register_buffer('positions', positions)  # fixed, as the paper's sines
    self.noise = torch.nn.Sequential(
      torch.nn.Linear(self.FREQUENCIES, width), torch.nn.SiLU(), torch.nn.Linear(width, width)
    )
    self.classes = torch.nn.Embedding(classes + 1, width)
    self.blocks = torch.nn.ModuleList(DiTBlock(width, heads) for _ in range(network['depth']))
    self.modulation = torch.nn.Linear(width, 2 * width)
    self.output = torch.nn.Linear(width, patch**2 * 2 * channels)
    self.patch = patch

  def forward(
    self, x0: torch.Tensor, noise: torch.Tensor, t: torch.Tensor, label: torch.Tensor
  ) -> torch.Tensor:
    alpha = torch.cos(t * torch.pi / 2)[:, None, None, None]
    x = alpha * x0 + (1 - alpha**2).sqrt() * noise
    h = self.embed(x).flatten(2).transpose(1, 2) + self.positions
    steps = torch.arange(self.FREQUENCIES // 2, device=t.device)
    angles = 1000 * t[:, None] * 10_000 ** (-2 * steps / self.FREQUENCIES)
    condition = self.noise(torch.cat([angles.cos(), angles.sin()], -1)) + self.classes(label)
    for block in self.blocks:
      h = block(h, condition)
    shift, scale = self.modulation(functional.silu(condition))[:, None].chunk(2, -1)
    y = self.output(modulate(h, shift, scale))
    # The target in the order of the patches: [batch, patches, channels · patch²].
    target = functional.unfold(noise, self.patch, stride=self.patch).transpose(1, 2)
    estimate, variance = y.float().chunk(2, -1)
    return functional.mse_loss(estimate, target) + 1e-3 * variance.square().mean()


class NoiseLoss(torch.nn.Module):
  """The squared error of a U-Net's estimate of the noise."""

  def __init__(self, network: torch.nn.Module):
    super().__init__()
    self.network = network

  def forward(self, x0: torch.Tensor, noise: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
    alpha = torch.cos(t * torch.pi / 2)[:, None, None, None]
    x = alpha * x0 + (1 - alpha**2).sqrt() * noise
    return functional.mse_loss(self.network(x, 1000 * t).sample.float(), noise)


def unet(config: dict, spec: DataSpec) -> torch.nn.Module:
  """diffusers' U-Net with as many levels, blocks and channels as ours."""
  import diffusers

  network, (size, _, channels) = config['network'], spec.shape
  sides = [size // 2**i for i in range(len(network['multipliers']))]
  attends = [side in network['attention'] for side in sides]
  return diffusers.UNet2DModel(
    sample_size=size,
    in_channels=channels,
    out_channels=channels,
    layers_per_block=network['blocks'],
    block_out_channels=tuple(network['width'] * m for m in network['multipliers']),
    down_block_types=tuple('AttnDownBlock2D' if a else 'DownBlock2D' for a in attends),
    up_block_types=tuple('AttnUpBlock2D' if a else 'UpBlock2D' for a in attends[::-1]),
    attention_head_dim=None,  # one head
    norm_num_groups=min(32, network['width'] // 4),
    dropout=network['dropout'],
  )


# Training.


@dataclasses.dataclass
class Training:
  """A call of STEPS steps of AdamW.

  Attributes:
    model: its loss.
    inputs: the arguments of the loss, drawn again for each step.
    settings: the `optimizer` section of the config.
    decay: of the moving average of the parameters; 0: none.
  """

  model: torch.nn.Module
  inputs: Callable[[], tuple[torch.Tensor, ...]]
  settings: dict
  decay: float

  def __post_init__(self):
    self.parameters = list(self.model.parameters())
    self.average = [p.detach().clone() for p in self.parameters] if self.decay else []
    decays = self.settings.get('weight_decay', 0.0)
    self.optimizer = torch.optim.AdamW(self.parameters, 1e-4, weight_decay=decays, fused=True)
    self.loss = torch.compile(self.model)

  def __call__(self) -> None:
    for _ in range(STEPS):
      self._step()
    wait()

  def _step(self) -> None:
    self.optimizer.zero_grad(set_to_none=True)
    with autocast():
      loss = self.loss(*self.inputs())
    loss.backward()
    if self.settings['clip']:
      torch.nn.utils.clip_grad_norm_(self.parameters, self.settings['clip'])
    self.optimizer.step()
    if self.decay:
      with torch.no_grad():
        torch._foreach_lerp_(self.average, self.parameters, 1 - self.decay)


def gpt(config: dict, spec: DataSpec) -> GPT:
  """GPT-2 with as many layers, heads and channels as ours."""
  network = config['network']
  sizes = (network[name] for name in ('width', 'layers', 'heads'))
  return GPT(_padded(config, spec), spec.num_dims - 1, *sizes)


def train_gpt2(config: dict, spec: DataSpec) -> Work:
  """Steps on windows of tokens that stay on the card."""
  batch, length = config['data']['batch_size'], spec.num_dims - 1
  model = gpt(config, spec).to(DEVICE)
  tokens = torch.randint(spec.levels, (batch, length + 1), device=DEVICE)
  step = Training(model, lambda: (tokens,), config['optimizer'], decay=0.0)
  return work(step, STEPS * batch * length, model)


def _padded(config: dict, spec: DataSpec) -> int:
  """The size of the vocabulary, padded as in our own head."""
  multiple = config['head']['pad_to']
  return -(-spec.levels // multiple) * multiple


def dit(config: dict, spec: DataSpec) -> DiT:
  """DiT with as many layers, heads and channels as ours."""
  return DiT(spec.shape, spec.num_classes, config['network'])


def train_dit(config: dict, spec: DataSpec) -> Work:
  """Steps on latents that stay on the card."""
  return _train_images(dit(config, spec).to(DEVICE), config, spec, labels=True)


def train_unet(config: dict, spec: DataSpec) -> Work:
  """Steps on images that stay on the card."""
  network = unet(config, spec).to(DEVICE, memory_format=torch.channels_last)
  model = NoiseLoss(network)
  return _train_images(model, config, spec, labels=False)


def _train_images(model: torch.nn.Module, config: dict, spec: DataSpec, labels: bool) -> Work:
  batch, (height, width, channels) = config['data']['batch_size'], spec.shape
  images = torch.randn(batch, channels, height, width, device=DEVICE)
  images = images.to(memory_format=torch.channels_last)
  classes = (torch.randint(spec.num_classes, (batch,), device=DEVICE),) if labels else ()
  inputs = functools.partial(_noisy, images, classes)
  return work(Training(model, inputs, config['optimizer'], 0.9999), STEPS * batch, model)


def _noisy(images: torch.Tensor, classes: tuple) -> tuple[torch.Tensor, ...]:
  t = torch.rand(len(images), device=DEVICE)
  return images, torch.randn_like(images), t, *classes


# Sampling.


def sample_ddim(config: dict, spec: DataSpec) -> Work:
  """Images by diffusers' DDIM pipeline with a compiled U-Net."""
  import diffusers

  network = unet(config, spec).to(DEVICE, memory_format=torch.channels_last).eval()
  model = diffusers.DDIMPipeline(network, diffusers.DDIMScheduler()).to(DEVICE)
  model.set_progress_bar_config(disable=True)
  network.compile()
  num, steps = config['data']['batch_size'], config['sampling']['steps']

  def draw() -> None:
    with autocast():
      model(batch_size=num, num_inference_steps=steps, output_type='np')

  return work(draw, num, network)


def sample_heun(config: dict, spec: DataSpec) -> Work:
  """Images by diffusers' Heun scheduler, in the loop of its pipelines."""
  import diffusers

  network = unet(config, spec).to(DEVICE, memory_format=torch.channels_last).eval()
  network.compile()
  num, steps = config['data']['batch_size'], config['sampling']['steps']
  scheduler, (height, width, channels) = diffusers.HeunDiscreteScheduler(), spec.shape

  def draw() -> None:
    with torch.no_grad(), autocast():
      scheduler.set_timesteps(steps, DEVICE)
      x = torch.randn(num, channels, height, width, device=DEVICE) * scheduler.init_noise_sigma
      x = x.to(memory_format=torch.channels_last)
      for t in scheduler.timesteps:
        estimate = network(scheduler.scale_model_input(x, t), t).sample
        x = scheduler.step(estimate, t, x).prev_sample
      x.clamp(-1, 1).float().cpu().numpy()

  return work(draw, num, network)


def generate(cache: str | None, config: dict, spec: DataSpec) -> Work:
  """Tokens by transformers' `generate`; with its static cache, it compiles each step."""
  import transformers

  network, batch = config['network'], config['data']['batch_size']
  tokens = spec.num_dims - 1  # the first is given
  settings = transformers.GPT2Config(
    vocab_size=_padded(config, spec),
    n_positions=max(1024, tokens + 1),
    n_embd=network['width'],
    n_layer=network['layers'],
    n_head=network['heads'],
    bos_token_id=0,
    eos_token_id=None,
    pad_token_id=0,
  )
  model = transformers.GPT2LMHeadModel(settings).to(DEVICE, torch.bfloat16).eval()
  prompt = torch.zeros((batch, 1), dtype=torch.long, device=DEVICE)

  def draw() -> None:
    model.generate(
      prompt,
      attention_mask=torch.ones_like(prompt),
      max_new_tokens=tokens,
      min_new_tokens=tokens,
      do_sample=True,
      top_k=0,
      cache_implementation=cache,
    )
    wait()

  parameters = sum(p.numel() for p in model.parameters())
  return work(draw, batch * tokens, model, decoding_bytes(parameters, network, batch, tokens))


CONTENDERS: dict[tuple[str, str], Callable[[dict, DataSpec], Work]] = {
  (COMPILED, 'gpt2'): train_gpt2,
  (COMPILED, 'dit'): train_dit,
  (COMPILED, 'unet'): train_unet,
  ('diffusers DDIMPipeline', 'unet'): sample_ddim,
  ('diffusers HeunDiscreteScheduler', 'unet'): sample_heun,
  ('transformers generate, static cache', 'gpt2'): functools.partial(generate, 'static'),
  ('transformers generate', 'gpt2'): functools.partial(generate, None),
}
