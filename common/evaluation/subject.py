"""The subject of an evaluation: a model, its samples and the real data, each computed once."""

import dataclasses
import functools
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import Array, Int, Key, Shaped

from common.data.pipeline import Data
from common.data.sources import Source
from common.domains import domain_of
from common.domains.base import Domain
from common.domains.forecasts.draws import Forecasts, Windows, forecast, pooled
from common.domains.labels import class_cycle
from common.evaluation.forecasts import baselines
from common.evaluation.forecasts.scores import Scores, score
from common.evaluation.images import classifiers
from common.method import Method, PyTree, Request, Samples
from common.reporting.progress import reported

# Calls of the sampler that are timed, after the first, which compiles it.
TIMED_CALLS = 3
# The key of a further set of samples folds in its number from here; no call of the sampler has it.
FURTHER_SETS = 2**31
# The largest number of real examples of a split for distances and classifiers.
REAL_EXAMPLES = 60_000

# What a metric reads from a batch of samples, as images or texts: one row for each.
Reader = Callable[[np.ndarray], np.ndarray]
# Makes a reader for a subject; None if there is nothing to read.
MakeReader = Callable[['Subject'], Reader | None]


class TimedSamples(NamedTuple):
  """What is kept of the samples, and the cost of drawing them.

  Attributes:
    read: what each reader of the subject read from all samples, by metric.
    label: [num_samples] the classes that were requested, or None.
    shown: the samples to look at.
    shown_label: their classes, or None.
    evaluations: network evaluations per sample.
    seconds: duration of each timed call.
  """

  read: Mapping[str, np.ndarray]
  label: Int[np.ndarray, 'n'] | None
  shown: Shaped[np.ndarray, 's *shape']
  shown_label: Int[np.ndarray, 's'] | None
  evaluations: int
  seconds: tuple[float, ...]


@dataclasses.dataclass(frozen=True)
class Subject:
  """A model under evaluation; samples are drawn once, when the first metric asks for them.

  Attributes:
    method, params: the model.
    data: real data to compare it with.
    settings: the `evaluation` section of a config.
    key: determines all random numbers.
    options: sampler settings that replace those of the config.
    make_readers: by metric, a function of the subject that makes its reader; None if it needs none.
  """

  method: Method
  params: PyTree
  data: Data
  settings: Mapping[str, Any]
  key: Key[Array, '']
  options: Mapping[str, Any]
  make_readers: Mapping[str, MakeReader]

  @property
  def domain(self) -> Domain:
    """The kind of data."""
    return domain_of(self.data.spec)

  @property
  def originals(self) -> Data:
    """What samples are compared with: the data, or the images that latents encode."""
    return self.data.images or self.data

  @property
  def split(self) -> Source:
    """The split that is evaluated."""
    return self.data.splits[self.settings['split']]

  @functools.cached_property
  def samples(self) -> TimedSamples:
    """The samples of all metrics; see `draw_set`."""
    return self.draw_set(0)

  def draw_set(self, number: int) -> TimedSamples:
    """`settings.num_samples` samples, with each class as frequent as in the training split.

    Of each batch only what the readers read is kept, and the few samples to look at: the memory
    does not hold all samples at once.

    Args:
      number: which set: each has random numbers of its own.
    """
    key = jax.random.fold_in(self.key, FURTHER_SETS + number) if number else self.key
    num = self.settings['num_samples']
    batch = min(self.settings['batch_size'], num)
    calls = -(-num // batch)
    label = self.label_of(np.arange(num))
    shown = self.domain.shown(num, label)
    read, seen, seconds, evaluations = {make: [] for make in self.readers}, {}, [], 0
    # All calls draw `batch` samples, so the sampler compiles once; a surplus is cut off at the end.
    # Calls beyond the number needed only serve the timing.
    total = calls if number else max(calls, 1 + TIMED_CALLS)
    for call in reported(range(total), total, 'sampling'):
      indices = call * batch + np.arange(batch)
      start = time.perf_counter()
      samples = self._draw(jax.random.fold_in(key, call), indices)
      drawn = np.asarray(samples.x)  # waits until the device has finished: part of the time
      decodes = self.data.spec.latents is not None
      # Decoding latents is a part of drawing them.
      readable = self.domain.readable(self.data.spec, drawn) if decodes else None
      seconds.append(time.perf_counter() - start)
      if call < calls:
        evaluations = int(samples.evaluations) + decodes
        seen |= {index: drawn[index - indices[0]] for index in np.intersect1d(shown, indices)}
        for make, rows in self._read(drawn, readable).items():
          read[make].append(rows)
    joined = {make: np.concatenate(rows)[:num] for make, rows in read.items()}
    return TimedSamples(
      {name: joined[make] for name, make in self.make_readers.items() if make in joined},
      label,
      np.stack([seen[index] for index in shown]),
      None if label is None else label[shown],
      evaluations,
      tuple(seconds[1:]),  # the first call compiles, so its time does not count
    )

  def label_of(self, indices: Int[np.ndarray, 'n']) -> Int[np.ndarray, 'n'] | None:
    """The class to request for each sample; None if the method does not take classes."""
    return None if self.classes is None else self.classes[indices % len(self.classes)]

  def request(self, indices: Int[np.ndarray, 'batch']) -> Request:
    """The request for the samples of these indices."""
    label = self.label_of(indices)
    return self.domain.evaluation_request(self.data.spec, indices, label, self.split, self.options)

  def _draw(self, key: Key[Array, ''], indices: Int[np.ndarray, 'batch']) -> Samples:
    return self.method.draw(self.params, key, self.request(indices))

  def _read(self, drawn: np.ndarray, readable: np.ndarray | None) -> dict[MakeReader, np.ndarray]:
    """What each reader reads from a batch, which may be readable already."""
    if not self.readers:
      return {}
    if readable is None:
      readable = self.domain.readable(self.data.spec, drawn)
    return {make: reader(readable) for make, reader in self.readers.items()}

  @functools.cached_property
  def readers(self) -> dict[MakeReader, Reader]:
    """The readers of the metrics that read samples, by the function that makes them.

    Metrics that read the same share a reader.
    """
    made = {make: make(self) for make in dict.fromkeys(self.make_readers.values())}
    return {make: reader for make, reader in made.items() if reader is not None}

  @functools.cached_property
  def class_counts(self) -> Int[np.ndarray, 'classes']:
    """Number of real training examples of each class; empty if the data have no classes."""
    num_classes = self.data.spec.num_classes
    label = self.training[1] if num_classes else np.zeros(0, np.int32)
    return np.bincount(label, minlength=num_classes)

  @functools.cached_property
  def classes(self) -> Int[np.ndarray, 'total'] | None:
    """The classes of the samples, in turn; None if the method does not take classes."""
    # As frequent as in the reference: otherwise a perfect model would be far from it.
    labelled = self.data.spec.num_classes and self.method.labelled
    return class_cycle(self.class_counts) if labelled else None

  @functools.cached_property
  def training(self) -> tuple[np.ndarray, Int[np.ndarray, 'n']]:
    """Examples of the training split and their classes: the reference."""
    return _examples(self.data.splits['train'], self.data.spec.num_classes)

  @functools.cached_property
  def scores(self) -> Scores:
    """The scores of `settings.num_samples` draws of every window of the split."""
    return score(self.forecasts(), self.data.spec.series.season, self.settings['split'])

  def forecasts(self) -> Iterator[Forecasts]:
    """The forecasts of every window of the split, some windows at a time."""
    return forecast(
      self.method,
      self.params,
      self.key,
      Windows(self.data.spec, self.split, np.arange(len(self.split))),
      self.settings['num_samples'],
      self.settings['batch_size'],
      self.options,
    )

  @functools.cached_property
  def naive2(self) -> Scores:
    """The scores of the benchmark Naive2 on the same windows."""
    split = self.settings['split']
    made = baselines.forecasts('naive2', self.data, split, 1)
    return score(made, self.data.spec.series.season, split)

  @functools.cached_property
  def real(self) -> classifiers.LabelledImages:
    """The training split, and the evaluated split, on which a classifier's accuracy is measured."""
    data = self.originals
    spec, split = data.spec, data.splits[self.settings['split']]
    training = _examples(data.splits['train'], spec.num_classes)
    (x, label), (test_x, test_label) = training, _examples(split, spec.num_classes)
    (x, levels), (test_x, _) = (self.domain.as_images(spec, part) for part in (x, test_x))
    return classifiers.labelled_images(x, label, test_x, test_label, levels)


@dataclasses.dataclass(frozen=True)
class BaselineSubject(Subject):
  """A classical forecast under evaluation; it has no method and no samples.

  Attributes:
    baseline: its name, a key of `BASELINES`.
  """

  baseline: str = ''

  def forecasts(self) -> Iterator[Forecasts]:
    """The forecasts of every window of the split, some windows at a time."""
    split, draws = self.settings['split'], self.settings['num_samples']
    return baselines.forecasts(self.baseline, self.data, split, draws)


REAL = 'real'  # the baseline of samples


@dataclasses.dataclass(frozen=True)
class RealSubject(Subject):
  """Examples of the evaluated split in place of samples: what samples are to resemble.

  They are drawn without replacement, until the split is exhausted. It has no method.
  """

  @functools.cached_property
  def order(self) -> Int[np.ndarray, 'examples']:
    """The examples of the split in random order."""
    return np.random.default_rng(0).permutation(len(self.split))

  def _draw(self, key: Key[Array, ''], indices: Int[np.ndarray, 'batch']) -> Samples:
    del key
    return Samples(self.split.gather(self.order[indices % len(self.order)])['x'], 0)


@dataclasses.dataclass(frozen=True)
class EnsembleSubject(Subject):
  """Several models whose forecasts are one: the draws of all of them, with equal weights.

  Attributes:
    members: the models, of which the first is the subject's own.
  """

  members: tuple[Subject, ...] = ()

  def forecasts(self) -> Iterator[Forecasts]:
    """The forecasts of every window of the split, some windows at a time."""
    return pooled([member.forecasts() for member in self.members])


def _examples(source: Source, num_classes: int) -> tuple[np.ndarray, np.ndarray]:
  """Examples and labels of a split; of a large split, a fixed random part."""
  indices = np.sort(np.random.default_rng(0).permutation(len(source))[:REAL_EXAMPLES])
  examples = source.gather(indices)
  labels = examples['label'] if num_classes else np.zeros(len(indices), np.int32)
  return examples['x'], labels
