"""Image tasks: their inputs and masks, the pixels that they keep, and the errors they raise."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from common.data import pipeline
from common.data.spec import DataSpec
from common.domains import domain_of, image_tasks
from common.domains.base import BATCH, SampleFlags, SampleSettings, TrainedModel
from common.domains.masks import read_mask
from experiments import families
from tests.common.domains.toy import Sampler

SPEC = DataSpec('toy', 'image', (4, 6, 3), 256)


def untrained(spec, changes):
  """A tiny model with its initial parameters."""
  small = {'network.width': 16, 'network.heads': 2}
  config = families.load_config(spec, small | changes)
  data = pipeline.load(config['data'])
  method = families.build(config, data.spec)
  batch = {k: jnp.zeros(v.shape, v.dtype) for k, v in data.spec.batch_struct(1).items()}
  params = jax.jit(method.init)(jax.random.key(0), batch)[0]
  family = config['family']
  return TrainedModel(method, params, data, 0, family, families.FAMILIES[family].tasks)


@pytest.fixture(scope='module')
def diffusion():
  changes = {'network.depth': 1, 'sampling.sampler': {'name': 'euler'}, 'sampling.steps': 4}
  return untrained('configs/diffusion/images.py:digits', changes)


@pytest.fixture(scope='module')
def pixels():
  return untrained('configs/autoregressive/images.py:digits_4x4', {'network.layers': 1})


def test_masks_by_name_hide_the_named_part():
  hidden = lambda text: ~read_mask(text, SPEC, 0)[..., 0]
  np.testing.assert_array_equal(hidden('left'), np.tile(np.arange(6) < 3, (4, 1)))
  np.testing.assert_array_equal(hidden('bottom:0.25'), np.tile(np.arange(4)[:, None] == 3, 6))
  centre = np.zeros((4, 6), bool)
  centre[1:3, 2:4] = True
  np.testing.assert_array_equal(hidden('centre'), centre)
  np.testing.assert_array_equal(hidden('border'), ~centre)
  assert hidden('random:0.25').sum() == 6
  assert (read_mask('random', SPEC, 0) != read_mask('random', SPEC, 1)).any()


def test_masks_from_files(tmp_path):
  hidden = np.arange(24).reshape(4, 6) % 3 == 0
  np.save(tmp_path / 'mask.npy', hidden)
  Image.fromarray(np.where(hidden, 255, 0).astype(np.uint8)).save(tmp_path / 'mask.png')
  for name in ('mask.npy', 'mask.png'):
    known = read_mask(str(tmp_path / name), SPEC, 0)
    np.testing.assert_array_equal(known, np.repeat(~hidden[..., None], 3, axis=-1))


def test_bad_masks_are_refused_with_the_valid_forms(tmp_path):
  np.save(tmp_path / 'square.npy', np.zeros((4, 4)))
  np.save(tmp_path / 'half.npy', np.full((4, 6), 0.5))
  for text, message in (
    ('middle', 'left, right, top, bottom, centre, border, random'),
    ('left:2', r'SHARE in \(0, 1\)'),
    (str(tmp_path / 'square.npy'), r'shape \(4, 4, 1\); the images are \(4, 6, 3\)'),
    (str(tmp_path / 'half.npy'), 'no other values'),
  ):
    with pytest.raises(ValueError, match=message):
      read_mask(text, SPEC, 0)
  with pytest.raises(OSError, match='nowhere'):
    read_mask('nowhere.npy', SPEC, 0)


def test_known_pixels_stay_and_the_others_are_drawn(diffusion, pixels):
  for model, name in ((diffusion, 'inpaint'), (pixels, 'complete')):
    done = image_tasks.perform(model, name, num=3, draws=2, mask='bottom')
    assert done.images.shape == (2, 3, 8, 8, 1)
    for result in done.images:
      np.testing.assert_array_equal(result[:, :4], done.given.x[:, :4])
    assert (done.images[0][:, 4:] != done.images[1][:, 4:]).any()


def test_a_trajectory_leads_from_noise_to_the_sample(diffusion):
  done = image_tasks.perform(diffusion, 'trajectory', num=5, draws=1)
  noise = done.images[0, 0] / 8.0 - 1.0  # unit noise, clipped to [-1, 1]: variance 0.516
  assert abs(noise.mean()) < 0.3 and abs(noise.var() - 0.516) < 0.2
  # An untrained network predicts 0: each state is the noise, scaled down until the image is grey.
  spread = [state.std() for state in done.images[0]]
  assert spread[0] > 4 > spread[-1] and (np.diff(spread) <= 0.1).all()


def test_an_interpolation_begins_and_ends_with_reconstructions(diffusion):
  path = image_tasks.perform(diffusion, 'interpolate', num=4, draws=1)
  ends = image_tasks.perform(diffusion, 'reconstruct', num=4, draws=1)
  np.testing.assert_array_equal(path.given.x, ends.given.x)
  for row in (0, -1):
    np.testing.assert_allclose(path.images[0, row], ends.images[0, row], atol=1)
  assert (abs(path.images[0, 1] - ends.images[0, 1].astype(int)) > 1).any()


def test_many_images_are_edited_in_calls_of_one_size(diffusion):
  sizes = []

  def edit(key, request):
    sizes.append((request.num, len(request.label)))
    assert request.mask.shape == (8, 8, 1)  # shared by all images
    return request.past

  model = diffusion._replace(method=Sampler(edit))
  done = image_tasks.perform(model, 'inpaint', num=BATCH + 12, draws=2)
  assert sizes == [(BATCH, BATCH)] * 4
  for result in done.images:
    np.testing.assert_array_equal(result, done.given.x)


def test_the_picture_shows_input_mask_and_results():
  x = np.full((2, 8, 8, 1), 16, np.uint8)
  spec = DataSpec('toy', 'image', (8, 8, 1), 17)
  known = read_mask('left', spec, 0)
  given = image_tasks.TaskInput(x, None, known)
  result = image_tasks.TaskResult(given, 'a title', np.zeros((2, 2, 8, 8, 1), np.uint8))
  shown = image_tasks.picture('inpaint', result, spec.levels, 4)
  assert shown.shape[0] > 4 * (8 + 2) * 4  # four rows: input, given, two results
  assert (shown == image_tasks.FILL).all(-1).sum() == 2 * 8 * 4 * 4 * 4  # half of both images


def test_tasks_that_a_model_cannot_do_are_refused(diffusion, pixels):
  for model, name, settings, message in (
    (diffusion, 'paint', {}, 'unknown diffusion task .paint.; .*known: colourise, inpaint'),
    (pixels, 'inpaint', {}, 'unknown autoregressive task .inpaint.; known: complete'),
    (diffusion, 'colourise', {}, 'at least 2 channels'),
    (diffusion, 'sdedit', {'mask': 'left'}, '--task=sdedit takes no mask'),
    (diffusion, 'interpolate', {'num': 1}, 'needs 2 to 128 images'),
    (diffusion, 'trajectory', {'num': 129}, '--num=129: --task=trajectory needs 2 to 128 images'),
    (diffusion, 'reconstruct', {'num': 10_000}, 'the test split has only'),
    (pixels, 'complete', {'mask': 'top'}, 'must be a beginning of the sequence'),
  ):
    with pytest.raises(ValueError, match=message):
      image_tasks.perform(model, name, **settings)


@pytest.mark.parametrize(
  ('flags', 'message'),
  [
    (dict(mask='left'), "--mask='left' needs a --task"),
    (dict(draws=2), '--draws=2 needs a --task; without one, use --num'),
    (dict(task='inpaint', columns=2), '--columns=2: the picture of a task has one for each image'),
    (dict(task='colourise'), '--task=colourise needs images in colour, got 1 channels'),
    (dict(task='complete'), "unknown diffusion task 'complete'; known: colourise"),
    (dict(label='11'), "--label='11' is not a class of digits"),
    (dict(label='none'), 'guidance of weight 2 needs classes .* or request a class .--label=NAME'),
  ],
)
def test_flags_without_an_effect_are_refused(diffusion, tmp_path, flags, message):
  settings = SampleSettings(SampleFlags(**flags), options={'guidance': 2.0})
  with pytest.raises(ValueError, match=message):
    domain_of(diffusion.data.spec).check(
      diffusion._replace(params=None), settings, tmp_path / 'x.png'
    )
