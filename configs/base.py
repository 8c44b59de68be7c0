"""The sections that every experiment has, whatever its family, with their defaults.

A number of steps is text: '2000', '3 epochs', or '5%' of the run.
"""

from ml_collections import ConfigDict


def get_base() -> ConfigDict:
  """A config without a method; `configs/<family>/base.py` adds it."""
  return ConfigDict(
    dict(
      family='',  # 'diffusion' or 'autoregressive'
      seed=0,
      data=dict(
        name='digits',  # a key of common/data/builders/__init__.py
        dir='',  # folder of prepared datasets; empty: TFDS's own default
        source='',  # folder or file of custom data (image_folder, npz, text, series) or raw files
        image_size=0,  # image_folder: side after cropping and resizing; 0: unchanged
        broken='refuse',  # image_folder, text: 'refuse' an unreadable file, or 'skip' it
        palette=0,  # images: number of colours of a k-means palette; 0: no palette
        context=64,  # text, music: tokens or frames in a window; series: values before a forecast
        horizon=12,  # series: values to forecast
        stride=1,  # series: steps from one training window to the next
        tokenizer='characters',  # text: bytes, characters, gpt2 (from files), bpe (trained)
        vocabulary=1024,  # text, bpe: tokens to train
        tokenizer_files='',  # text, gpt2: folder of vocab.json and merges.txt, or tokenizer.json
        batch_size=128,  # the global batch, whatever the number of devices
      ),
      optimizer=dict(
        name='adamw',  # adam, adamw, sgd, muon
        learning_rate=1e-3,
        schedule='cosine',  # constant, cosine, rsqrt, trapezoid; each after the warm-up
        warmup='5%',
        cooldown='20%',  # trapezoid only: the length of its final decay
        final=0.0,  # the last learning rate, as a fraction of `learning_rate`
        b1=0.9,
        b2=0.99,
        eps=1e-8,
        momentum=0.9,  # sgd and muon
        weight_decay=0.0,
        no_decay='(bias|scale|embedding)$',  # a regular expression: parameters without decay
        clip=1.0,  # global norm of the gradient; 0: off
        frozen='',  # a regular expression: parameters that are not trained
        groups=dict(),  # by name: `paths` (a regular expression) and its own settings
      ),
      ema=dict(
        decay=0.999,  # decay of the average that is evaluated and sampled from
        warmup=True,  # the decay is at most (1 + n)/(10 + n) at step n
        half_life='0',  # unless 0, replaces the two above: steps after which a weight halves
        ramp_up=0.05,  # half_life is at most this share of the steps so far; 0: no limit
        widths=(),  # power-function averages to store, by width relative to the run: (0.05, 0.1)
        snapshot_every='12.5%',  # how often these averages are stored
        keep=16,  # newest stored averages to keep
      ),
      train=dict(
        steps='2000',
        steps_per_call=20,  # optimiser steps in one compiled call
        micro_batches=1,  # gradient accumulation: parts of each batch, one after the other
        log_every='5%',
        evaluate_every='25%',
        sample_every='50%',
        checkpoint_every='25%',
        keep=2,  # newest checkpoints to keep, besides the best
        best_metric='loss',  # metric on the validation split that chooses the best checkpoint
        best_mode='min',
        max_bad_steps=20,  # stop after this number of steps in a row with a non-finite gradient
        profile='',  # 'first:last': steps to profile, into WORKDIR/profile
      ),
      parallel=dict(
        mode='jit',  # 'jit' over a mesh, or 'pmap'
        data=-1,  # devices over which the batch is split; -1: all others
        fsdp=1,  # devices over which parameters, optimiser state and batch are split
        tensor=1,  # devices over which the width of the network is split
      ),
      evaluation=dict(
        split='test',
        batch_size=256,
        num_samples=1000,  # for the Fréchet distance and class agreement; draws of each forecast
        extractor='auto',  # auto, mlp or pixels (common/evaluation/features.py)
      ),
    )
  )
