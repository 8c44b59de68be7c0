"""The sections that every experiment has, whatever its family, with their defaults and ranges.

A number of steps is text: '2000', '3 epochs', '10 Mimg' (or 'kimg', 'images'; a batch is a step),
or '5%' of the run. Epochs and images are rounded up to whole steps.
"""

from ml_collections import ConfigDict

from common.config import plain_defaults
from common.data.palettes import MAX_COLOURS
from common.data.series.layouts import LAYOUTS
from common.data.series.windows import TRAIN_TO
from common.ranges import (
  ABOVE_ZERO,
  AT_LEAST_ONE,
  AT_LEAST_ZERO,
  BELOW_ONE,
  FOLDER,
  PATH,
  PATTERN,
  PRECISION,
  PROBABILITY,
  SEED,
  ZERO_IS_OFF,
  Each,
  Interval,
  OneOf,
  Setting,
)

UP_TO_A_MILLION = Interval(1, 10**6)

SETTINGS = dict(
  family='',  # 'diffusion', 'autoregressive', 'vae', 'gan' or 'classifier'
  # type of the networks' products and residual streams; all else is float32 (docs/precision.md)
  precision=Setting('float32', PRECISION),
  seed=Setting(0, SEED),  # decides initial parameters, order of the data and all noise
  data=dict(  # what is trained on
    name='digits',  # a key of common/data/builders/__init__.py
    dir=Setting('', FOLDER),  # folder of prepared datasets, or gs://...; empty: TFDS's default
    # folder or file of custom data (image_folder, npz, text, dialogues, series) or raw files
    source=Setting('', PATH),
    # image_folder, imagenet: side after cropping and resizing; mnist, fashion_mnist, cifar10: of
    # smaller images, whose pixels are means of squares
    image_size=Setting(0, Interval(0, 8192, note='0: unchanged')),
    # image_folder, text: 'refuse' an unreadable file, or 'skip' it
    broken=Setting('refuse', OneOf('refuse', 'skip')),
    # images: WORKDIR[@STEP] of a run of the family vae, or a folder with an AutoencoderKL, whose
    # latents are modelled; empty: the images themselves
    first_stage=Setting('', PATH),
    flip=False,  # images: mirror a random half of them left to right, anew in every epoch
    shift=False,  # text, music: windows begin anywhere in the stream, anew in every epoch
    # a single text: its last tenth is for 'both' validation and test, or for 'validation' alone
    held_out=Setting('both', OneOf('both', 'validation')),
    # images: number of colours of a k-means palette
    palette=Setting(0, Interval(0, MAX_COLOURS, note='0: no palette')),
    # text, music, rolls: tokens or frames in a window; series: values before a forecast
    context=Setting(64, UP_TO_A_MILLION),
    collection='',  # piano_rolls: jsb, nottingham, musedata or piano_midi
    # piano_rolls: frames at the beginning of a window that repeat the one before, and are given
    overlap=Setting(1, UP_TO_A_MILLION),
    blanks=Setting(100, Interval(1, 10**4)),  # copy_memory: between the symbols and their copies
    # sequential_*: seed of the order of an image's pixels
    permutation=Setting(0, Interval(0, 2**32, note='0: rows from top to bottom', below=True)),
    # series: values to forecast
    horizon=Setting(0, Interval(0, 10**6, note='0: the published number, or 12')),
    stride=Setting(1, UP_TO_A_MILLION),  # series: steps from one training window to the next
    # series: least values before the horizon of a training window, the others being padding
    min_context=Setting(0, Interval(0, 10**6, note='0: all, unless the series is shorter')),
    # series: windows of each series in validation, and again in test
    rolling=Setting(0, Interval(0, 10**6, note='0: one, or all of a published test part')),
    # series: steps from one of these windows to the next
    roll_by=Setting(0, Interval(0, 10**6, note='0: the horizon')),
    # series: their number is a multiple of this, without the last ones, as loaders drop a batch
    rolling_multiple=Setting(1, UP_TO_A_MILLION),
    # series: where training ends: before the steps for 'validation' or 'test', or at the 'end';
    # images: 'test' also trains on the validation split
    train_to=Setting('validation', OneOf(*TRAIN_TO)),
    frequency='',  # series: the one to keep of several: monthly, '30 minutes'; empty: there is one
    unit='',  # series: what the values are measured in, for tables and pictures
    target='',  # series: column of the values; empty: the one called value, target or y
    time='',  # series: column of the times; empty: the one called time, date, timestamp or ds
    series='',  # series: columns that name a series, 'a,b', or 'none'; empty: id and the like
    covariates='all',  # series: 'all' other columns, 'none', or some of them, 'a,b'
    categories='',  # series: covariates whose numbers are names, 'a,b'; texts always are
    observed='',  # series: covariates that are known only afterwards, as the value is, 'a,b'
    # series: whether a row is a value, or each column or each row a series
    layout=Setting('long', OneOf(*LAYOUTS)),
    tokenizer='characters',  # text: bytes, characters, files, gpt2 (from files), bpe (trained)
    vocabulary=Setting(1024, UP_TO_A_MILLION),  # text, bpe: tokens to train
    # text, files: a run, or a folder with tokenizer.json, or with vocab.json and merges.txt; empty:
    # the run itself, or finetune.source
    tokenizer_files=Setting('', PATH),
    # dialogues: file with a chat template in Jinja; empty: that of tokenizer_files
    template=Setting('', PATH),
    batch_size=Setting(128, UP_TO_A_MILLION),  # the global batch, whatever the number of devices
  ),
  optimizer=dict(  # how a step changes the parameters
    name='adamw',  # adam, adamw, rmsprop, sgd, muon
    learning_rate=Setting(1e-3, ABOVE_ZERO),  # the peak, after the warm-up
    # constant, cosine, drop, exponential, rsqrt, trapezoid; after the warm-up
    schedule='cosine',
    warmup='5%',  # from near 0 to the peak
    # exponential only: the factor of the learning rate from one step to the next
    learning_rate_decay=Setting(1.0, Interval(0, 1, above=True)),
    cooldown='20%',  # trapezoid, drop: the length of the part that ends at `final`
    final=Setting(0.0, PROBABILITY),  # the last learning rate, as a fraction of `learning_rate`
    b1=Setting(0.9, BELOW_ONE),  # Adam: decay of the mean of gradients
    b2=Setting(0.99, BELOW_ONE),  # Adam, RMSprop: decay of the mean of squared gradients
    eps=Setting(1e-8, ABOVE_ZERO),  # Adam, RMSprop: added to the root of that mean
    momentum=Setting(0.9, BELOW_ONE),  # sgd and muon
    weight_decay=Setting(0.0, AT_LEAST_ZERO),  # adamw, sgd and muon
    # a regular expression: parameters without decay
    no_decay=Setting('(bias|scale|embedding)$', PATTERN),
    clip=Setting(1.0, ZERO_IS_OFF),  # global norm of the gradient; 0: off
    # NaN in the gradient becomes 0, ±infinity ± this, and the step is not skipped; 0: off
    nan_to_num=Setting(0.0, ZERO_IS_OFF),
    frozen=Setting('', PATTERN),  # a regular expression: parameters that are not trained
    groups=dict(),  # by name: `paths` (a regular expression) and its own settings
  ),
  ema=dict(  # averages of the parameters
    decay=Setting(0.999, BELOW_ONE),  # decay of the average that is evaluated and sampled from
    warmup=True,  # the decay is at most (1 + n)/(10 + n) at step n
    half_life='0',  # unless 0, replaces the two above: length after which a weight halves
    # half_life is at most this share of the steps so far
    ramp_up=Setting(0.05, Interval(0, 1, note='0: no limit')),
    # power-function averages to store, by width relative to the run: (0.05, 0.1)
    widths=Setting((), Each(Interval(0, 12**-0.5, above=True, below=True), float)),
    snapshot_every='12.5%',  # how often these averages are stored
    keep=Setting(16, AT_LEAST_ONE),  # newest stored averages to keep
  ),
  train=dict(  # the run
    steps='2000',  # a number, epochs or images: '3 epochs', '200 Mimg'
    steps_per_call=Setting(20, AT_LEAST_ONE),  # optimiser steps in one compiled call
    # gradient accumulation: parts of each batch, one after the other
    micro_batches=Setting(1, AT_LEAST_ONE),
    log_every='5%',  # between rows of metrics; 0: none, also for the next three
    evaluate_every='25%',  # between measurements of the validation loss
    # validation examples in a measurement, drawn anew at random for each
    evaluate_examples=Setting(0, Interval(0, 10**7, note='0: all')),
    sample_every='50%',  # between pictures of samples
    checkpoint_every='25%',  # between checkpoints
    keep=Setting(2, AT_LEAST_ONE),  # newest checkpoints to keep, besides the best
    best_metric='loss',  # metric on the validation split that chooses the best checkpoint
    best_mode=Setting('min', OneOf('min', 'max')),  # whether less of it is better, or more
    # stop after this number of steps in a row with a non-finite gradient; those do not count
    # where the log2_loss_scale of float16 is above 0
    max_bad_steps=Setting(20, AT_LEAST_ONE),
    loss_scale=dict(),  # LossScaling, common/precision.py: only with precision='float16'
    profile='',  # 'first:last': steps to profile, into WORKDIR/profile
  ),
  parallel=dict(  # how a step is spread over devices
    mode=Setting('jit', OneOf('jit', 'pmap')),  # 'jit' over a mesh, or 'pmap'
    # devices over which the batch is split
    data=Setting(-1, Interval(-1, note='-1: all others')),
    # devices over which parameters, optimiser state and batch are split
    fsdp=Setting(1, AT_LEAST_ONE),
    # devices over which heads, hidden units, channels and the vocabulary are split
    tensor=Setting(1, AT_LEAST_ONE),
  ),
  evaluation=dict(  # how `twofold evaluate` measures
    split='test',  # train, validation or test
    batch_size=Setting(256, UP_TO_A_MILLION),  # examples or samples in one compiled call
    # text: tokens in a window, a multiple of data.context: longer ones than in training
    context=Setting(0, Interval(0, 10**6, note='0: that of the data')),
    # what distances, precision, modes and class agreement are measured on; draws of each forecast
    num_samples=Setting(1000, Interval(1, 10**7)),
    # number of sets of samples, of which the least Fréchet distance counts
    sample_sets=Setting(1, Interval(1, 100)),
    # training images of the Fréchet distance: as many as samples, or all of them
    reference=Setting('as_many', OneOf('as_many', 'all')),
    extractor='auto',  # auto, mlp or pixels (common/evaluation/images/features.py)
  ),
)


def get_base() -> ConfigDict:
  """A config without a method; `configs/<family>/base.py` adds it."""
  return ConfigDict(plain_defaults(SETTINGS))
