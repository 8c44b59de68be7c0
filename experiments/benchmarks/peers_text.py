"""The small GPT of `experiments.benchmarks.reference` in PyTorch; it needs the `peers` extra."""

from collections.abc import Callable

import numpy as np
import torch


class CharacterGPT(torch.nn.Module):
  """A GPT-2 without biases and with tied embeddings, as in nanoGPT.

  Args:
    params: initial values: the parameters of our own transformer with the same settings.
    heads: the number of attention heads.
  """

  def __init__(self, params, heads: int):
    super().__init__()
    self.heads = heads
    network = params['network']
    self.layers = sum(name.startswith('block_') for name in network)
    flat = {
      'table': params['token_embed']['embedding'],
      'position': network['position_embed']['embedding'],
    }
    flat['final_norm'] = network['final_norm']['scale']
    for i in range(self.layers):
      block = network[f'block_{i}']
      for part, name in (('attention', 'qkv'), ('attention', 'out')):
        flat[f'{name}_{i}'] = block[part][name]['kernel']
      for name in ('up', 'down'):
        flat[f'{name}_{i}'] = block[name]['kernel']
      for name in ('attention_norm', 'mlp_norm'):
        flat[f'{name}_{i}'] = block[name]['scale']
    self.weights = torch.nn.ParameterDict(
      {name: torch.nn.Parameter(torch.tensor(np.asarray(value))) for name, value in flat.items()}
    )

  def forward(self, tokens: torch.Tensor) -> torch.Tensor:
    """Logits [batch, length, vocabulary] of what follows each token."""
    w, functional = self.weights, torch.nn.functional
    h = w['table'][tokens] + w['position'][: tokens.shape[1]]
    for i in range(self.layers):
      qkv = _norm(h, w[f'attention_norm_{i}']) @ w[f'qkv_{i}']
      # [batch, length, heads · 3 · width] to query, key, value [batch, heads, length, width].
      qkv = qkv.unflatten(-1, (self.heads, 3, -1)).permute(3, 0, 2, 1, 4)
      mixed = functional.scaled_dot_product_attention(*qkv, is_causal=True)
      h = h + mixed.transpose(1, 2).flatten(2) @ w[f'out_{i}']
      up = functional.gelu(_norm(h, w[f'mlp_norm_{i}']) @ w[f'up_{i}'], approximate='tanh')
      h = h + up @ w[f'down_{i}']
    return _norm(h, w['final_norm']) @ w['table'].T


def _norm(h: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
  return torch.nn.functional.layer_norm(h, scale.shape, scale)


def _next_token_loss(model, tokens: torch.Tensor) -> torch.Tensor:
  logits = model(tokens[:, :-1])
  return torch.nn.functional.cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten())


def train_language_model(model, settings) -> Callable[..., None]:
  """A function of (tokens [batch, length], learning rate) that takes one step of AdamW.

  Args:
    model: a CharacterGPT.
    settings: the `optimizer` section of a config. As in our own run, weight decay affects only the
      matrices of the layers.
  """
  layers = ('qkv_', 'out_', 'up_', 'down_')
  named = dict(model.named_parameters())
  matrices = [p for n, p in named.items() if n.removeprefix('weights.').startswith(layers)]
  others = [p for p in model.parameters() if all(p is not q for q in matrices)]
  optimizer = torch.optim.AdamW(
    [
      {'params': matrices, 'weight_decay': settings['weight_decay']},
      {'params': others, 'weight_decay': 0.0},
    ],
    betas=(settings['b1'], settings['b2']),
    eps=settings['eps'],
  )

  def step(tokens, learning_rate: float) -> None:
    for group in optimizer.param_groups:
      group['lr'] = learning_rate
    optimizer.zero_grad(set_to_none=True)
    _next_token_loss(model, torch.as_tensor(tokens.astype(np.int64))).backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), settings['clip'])
    optimizer.step()

  return step


def language_model_loss(model, tokens: np.ndarray, batch: int = 256) -> float:
  """Mean loss in nats per token of windows [n, length]."""
  total = 0.0
  with torch.no_grad():
    for start in range(0, len(tokens), batch):
      part = torch.as_tensor(tokens[start : start + batch].astype(np.int64))
      total += float(_next_token_loss(model, part)) * len(part)
  return total / len(tokens)
