"""A kind of data: how its samples are requested, shown, written to files and evaluated.

Each kind is a subclass of `Domain` in a module of its own, with one line in
`common.domains.DOMAINS`. All other code asks the domain of its data; it never compares names.

The methods of `Domain` suit data that can be shown as pictures: a new kind of data must implement
`as_images`, and overrides the members that do not suit it.
"""

import dataclasses
import math
import time
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int, Key, UInt8

from common.data.pipeline import Data
from common.data.sources import Source
from common.data.spec import DataSpec
from common.domains.display import Display, EvaluationDraws
from common.domains.labels import parse_label
from common.files import Path
from common.method import Method, PyTree, Request, Samples
from common.reporting import pictures
from common.reporting.writers import Writer

GRID = 10  # rows and columns of training's grid of samples
PICTURE_ROWS = 8  # rows in the picture of an evaluation; with classes, samples of each
BATCH = 128  # samples in one call of a sampler
# The flags that are numbers from 1, with their largest values.
COUNTS = dict(num=10**6, draws=10**5, length=10**6, horizon=10**6, columns=1000, scale=64)
MAX_VALUES = 2**31  # numbers in all samples of a request


class ImageTask(NamedTuple):
  """A task that a family of models can do with given images, such as inpainting.

  Attributes:
    needs: which of 'past' and 'mask' its request takes.
    options: sampler options that select the task.
    random: whether the same input has more than one result.
    mask: the default of --mask.
  """

  needs: tuple[str, ...]
  options: Mapping[str, Any]
  random: bool = True
  mask: str = 'centre'


class TrainedModel(NamedTuple):
  """A trained model, with everything needed to sample from it.

  Attributes:
    method, params: the model.
    data: the data it was trained on.
    step: the optimizer step of its checkpoint.
    family: the name of its family, for messages.
    tasks: the tasks of its family, by name.
  """

  method: Method
  params: PyTree
  data: Data
  step: int
  family: str
  tasks: Mapping[str, ImageTask]

  @property
  def context(self) -> int:
    """Tokens or frames that the model handles at once, the last drawn one included."""
    return max(self.data.spec.shape[0], self.method.context)

  def draw(self, request: Request, seed: int) -> tuple[Samples, float]:
    """Samples, and the seconds that drawing them took, compilation included."""
    start = time.perf_counter()
    samples = self.draw_batches(jax.random.key(seed), request)
    jax.block_until_ready(samples.x)
    return samples, time.perf_counter() - start

  def draw_batches(self, key: Key[Array, ''], request: Request) -> Samples:
    """Samples, drawn at most BATCH at a time; as NumPy arrays if there are more.

    The memory of the device does not depend on their number, nor do the first samples: sample i is
    always sample i % BATCH of call i // BATCH.
    """
    if request.num <= BATCH:
      return self.method.draw(self.params, key, request)
    calls = []
    for call, first in enumerate(range(0, request.num, BATCH)):
      # The last call repeats its last sample: all have one shape, so the sampler compiles once.
      part = request.part(np.minimum(first + np.arange(BATCH), request.num - 1))
      # The first call has the key of a request that needs only one.
      call_key = jax.random.fold_in(key, call) if call else key
      calls.append(jax.device_get(self.method.draw(self.params, call_key, part)))
    joined = {
      name: values[0] if values[0] is None else np.concatenate(values)
      for name, *values in zip(Samples._fields, *calls, strict=True)
      if name != 'evaluations'
    }
    evaluations = max(samples.evaluations for samples in calls)
    return Samples(**joined, evaluations=evaluations).first(request.num)

  def check(self, request: Request) -> None:
    """Raises ValueError for a request that `draw` would refuse; needs no parameters."""
    self.method.check_request(None, request.part(np.arange(min(request.num, BATCH))))


@dataclasses.dataclass(frozen=True)
class SampleFlags:
  """Flags of `experiments.sample` with a meaning of their own for each kind of data, or None."""

  num: int | None = None
  label: str | None = None
  task: str | None = None
  mask: str | None = None
  draws: int | None = None
  prompt: str | None = None
  length: int | None = None
  slide: bool | None = None
  stop: str | Sequence[str] | None = None
  stop_at: str | None = None
  stream: bool | None = None
  columns: int | None = None
  scale: int | None = None
  horizon: int | None = None
  on: str | None = None
  future: str | None = None
  all_draws: bool | None = None

  def __post_init__(self):
    for name, largest in COUNTS.items():
      value = self.given().get(name, 1)
      if not isinstance(value, int) or not 1 <= value <= largest:
        raise ValueError(f'{name} must be a whole number in [1, {largest}], got {value!r}')

  def given(self) -> dict[str, Any]:
    """The flags that were given, by name."""
    return {k: v for k, v in dataclasses.asdict(self).items() if v is not None}


@dataclasses.dataclass(frozen=True)
class SampleSettings:
  """The settings of one call of `experiments.sample`.

  Attributes:
    flags: the flags that depend on the data.
    seed: determines all random numbers.
    options: sampler settings that replace those of the config.
  """

  flags: SampleFlags = SampleFlags()
  seed: int = 0
  options: Mapping[str, Any] = dataclasses.field(default_factory=dict)


class Domain:
  """A kind of data, with answers that suit any data that can be shown as pictures.

  Attributes:
    noun: what the data are, for messages: 'images'.
    usage: how samples are requested, for messages: words that follow the noun and a comma.
    metrics: names of the metrics (`common.evaluation.evaluate.METRICS`) that apply to the data.
    flags: what each flag of `experiments.sample` means for the data; other flags are refused.
    suffixes: endings of the files that samples can be written to.
    default_out: the file that samples are written to by default; '': they are only printed.
    unit: what training's rate counts: an example, or the parts of one that `units` counts.
    num: samples that `experiments.sample` draws by default.
    preview_num: samples that training draws at once.
    preview_columns: columns of training's picture of them.
    picture_scale: size of a pixel in pictures; 0: small images are enlarged.
  """

  noun: str = 'examples'
  usage: str = 'drawn by --num and --label'
  metrics = frozenset(('bits_per_dim', 'evaluations', 'seconds_per_sample', 'parameters'))
  flags: Mapping[str, str] = {
    'num': 'number of samples (100)',
    'label': "class of the samples, by name or number, or 'none' (default: all classes in turn)",
    'columns': 'number in a row of the picture (10); each class has rows of its own',
    'scale': 'size of a pixel in the picture (small images are enlarged)',
  }
  suffixes: tuple[str, ...] = ('.png', '.npy')
  default_out: str = 'samples.png'
  unit: str = 'examples'
  num: int = 100
  preview_num: int = GRID * GRID
  preview_columns: int = GRID
  picture_scale: int = 0

  # Requests.

  def request(
    self,
    spec: DataSpec,
    num: int,
    label: Int[Array, 'num'] | None = None,
    options: Mapping[str, Any] | None = None,
  ) -> Request:
    """A request for samples that are conditioned on nothing except their class."""
    del spec
    return Request(num, label, options=options or {})

  def preview_request(self, spec: DataSpec, labelled: bool, source: Source) -> Request:
    """The request that training repeats now and then, to show its progress.

    Args:
      spec: the data.
      labelled: see `common.method.Method`.
      source: the validation split, for requests that need real data.
    """
    del source
    rows = -(-self.preview_num // self.preview_columns)
    classes = min(spec.num_classes, rows) if labelled else 0
    # Each row has one class, so that all are seen, however rare.
    row = jnp.arange(self.preview_num) // self.preview_columns
    label = jnp.sort(row % classes) if classes else None
    return self.request(spec, self.preview_num, label)

  def evaluation_request(
    self,
    spec: DataSpec,
    indices: Int[np.ndarray, 'batch'],
    label: Int[np.ndarray, 'batch'] | None,
    source: Source,
    options: Mapping[str, Any],
  ) -> Request:
    """A request for some of the samples of an evaluation.

    Args:
      spec: the data.
      indices: the numbers of these samples, counted from 0.
      label: the class of each, as frequent as in the data; None if none can be requested.
      source: the split that is evaluated, for requests that need real data.
      options: sampler settings that replace those of the config.
    """
    del source
    label = None if label is None else jnp.asarray(label, jnp.int32)
    return self.request(spec, len(indices), label, options)

  def units(self, spec: DataSpec) -> int:
    """The number of units in an example."""
    del spec
    return 1

  # Showing samples.

  def as_images(
    self, spec: DataSpec, x: np.ndarray
  ) -> tuple[UInt8[np.ndarray, 'n height width channels'], int]:
    """Examples as images, and the number of levels of their values."""
    raise NotImplementedError(f'{type(self).__name__} has no images')

  def readable(self, spec: DataSpec, x: np.ndarray) -> np.ndarray:
    """Examples as metrics read them: as images, or as texts [n]."""
    return self.as_images(spec, x)[0]

  def preview_display(self, data: Data, x: np.ndarray, request: Request) -> Display:
    """Samples of `preview_request`, as training shows them."""
    images, levels = self.as_images(data.spec, x)
    label = None if request.label is None else np.asarray(request.label)
    return Display(images, label, self.preview_columns, levels, data.spec.class_names)

  def save_preview(
    self,
    data: Data,
    x: np.ndarray,
    request: Request,
    step: int,
    folder: Path,
    writer: Writer,
  ) -> None:
    """Writes samples of `preview_request` to FOLDER/STEP.png or .txt, and to TensorBoard."""
    display = self.preview_display(data, np.asarray(x), request)
    display.save(folder, f'{step:08d}', self.picture_scale)
    if display.text:
      writer.text(step, 'samples', display.text)
    picture = display.picture(self.picture_scale)
    if picture is not None:
      writer.images(step, 'samples', picture)

  # Evaluation.

  def shown(self, num: int, label: Int[np.ndarray, 'num'] | None) -> Int[np.ndarray, 'shown']:
    """Numbers of the samples of an evaluation to look at: the first ones, of each class if any."""
    if label is None:
      return np.arange(min(num, PICTURE_ROWS * self.preview_columns))
    # Of a rare class there may be fewer.
    classes = np.unique(label)[:GRID]
    return np.concatenate([np.flatnonzero(label == one)[:PICTURE_ROWS] for one in classes])

  def evaluation_display(self, spec: DataSpec, drawn: EvaluationDraws) -> Display:
    """The samples of an evaluation to look at; empty if it drew none."""
    if drawn.x is None:
      return Display()
    images, levels = self.as_images(spec, drawn.x)
    if drawn.label is None:
      return Display(images, None, self.preview_columns, levels)
    return Display(images, drawn.label, PICTURE_ROWS, levels, spec.class_names)

  def dimension_note(self, spec: DataSpec, bits: float) -> str:
    """A note on the dimensions of bits/dim, such as '; of palette indices'; '' if obvious."""
    del spec, bits
    return ''

  # The commands `experiments.prepare_data` and `experiments.sample`.

  def describe(self, spec: DataSpec) -> str:
    """The shape and values of an example, in one line."""
    shape = '×'.join(map(str, spec.shape))
    levels = f'{spec.levels} levels' if spec.levels else 'numbers'
    return f'{shape}, {levels}, {spec.num_classes} classes'

  def check_flags(self, spec: DataSpec, flags: SampleFlags, out: Path | None) -> None:
    """Raises ValueError for a flag or a suffix that does not apply, and for too many samples."""
    for name, value in flags.given().items():
      if name not in self.flags:
        known = ', '.join(f'--{flag}' for flag in self.flags)
        raise ValueError(
          f'--{name}={value}: {spec.name} holds {self.noun}, {self.usage}; its flags: {known}'
        )
    if out is not None and out.suffix not in self.suffixes:
      endings = ' or '.join(filter(None, (', '.join(self.suffixes[:-1]), self.suffixes[-1])))
      raise ValueError(f'--out={out}: the name must end in {endings}')
    for name in {'columns', 'scale'} & flags.given().keys() if out is not None else ():
      if out.suffix != '.png':
        raise ValueError(
          f'--{name} is for pictures, which end in .png; got --out={out}: remove the flag'
        )
    num = (flags.num or self.num) * (flags.draws or 1)
    values = num * (flags.length or spec.shape[0]) * math.prod(spec.shape[1:])
    if values > MAX_VALUES:
      most = f'{MAX_VALUES:,} are the most'
      raise ValueError(f'{num:,} samples would hold {values:,} values; {most}: ask for fewer')
    if out is not None and out.suffix == '.png':
      pictures.check_size(out, num * self.num_pixels(spec, flags))

  def num_pixels(self, spec: DataSpec, flags: SampleFlags) -> int:
    """Pixels that a sample takes in a picture, about; 0 if only the number of samples counts."""
    del spec, flags
    return 0

  def check(self, trained: TrainedModel, settings: SampleSettings, out: Path | None) -> None:
    """Raises ValueError for what `sample` could not do; the model needs no parameters yet."""
    self.check_flags(trained.data.spec, settings.flags, out)
    for name in settings.flags.given().keys() & settings.options.keys():
      raise ValueError(f'--{name} and option {name} say the same: give only one of them')
    trained.check(self.first_request(trained, settings))

  def first_request(self, trained: TrainedModel, settings: SampleSettings) -> Request:
    """The request of `draw`, or the first one if it makes several."""
    return self._request(trained, settings)

  def draw(self, trained: TrainedModel, settings: SampleSettings) -> Any:
    """Draws the samples that `sample` writes to a file; `check` has accepted the settings.

    Returns:
      Raw values [num, ...]; other kinds of data say what they return.
    """
    drawn = trained.draw(self._request(trained, settings), settings.seed)[0].x
    return trained.data.spec.decoded(np.asarray(drawn))

  def _request(self, trained: TrainedModel, settings: SampleSettings) -> Request:
    """The request of the flags and options."""
    flags, spec = settings.flags, trained.data.spec
    num = flags.num or self.num
    label = parse_label(flags.label, num, spec, trained.method.labelled)
    return self.request(spec, num, label, settings.options)

  def sample(self, trained: TrainedModel, settings: SampleSettings, out: Path | None) -> str:
    """Draws samples and writes them to a file.

    Args:
      trained: the model.
      settings: what to draw; `check` has accepted it.
      out: the file; None to write none.

    Returns:
      A message for the user.
    """
    flags, spec = settings.flags, trained.data.spec
    request = self._request(trained, settings)
    samples, seconds = trained.draw(request, settings.seed)
    x = np.asarray(samples.x)
    if out.suffix == '.npy':
      pictures.save_array(out, spec.decoded(x))
    else:
      images, levels = self.as_images(spec, x)
      display = Display(images, request.label, flags.columns or GRID, levels, spec.class_names)
      pictures.save_png(out, display.picture(flags.scale or self.picture_scale))
    evaluations = samples.evaluations + (spec.latents is not None)  # one decodes latents
    return (
      f'{len(x)} samples from step {trained.step} in {out}: {evaluations} network evaluations '
      f'each, {seconds:.1f} s with compilation'
    )
