"""What a run says before its first step and after its last."""

import jax
import pytest

from common.training.parallel import make_mesh
from common.training.program import build_program
from experiments import families
from experiments.startup import summary
from tests.experiments.startup import tiny


def lines_and_program(family, **changes):
  config, spec = tiny.config(family, **changes), tiny.data(classes=3).spec
  mesh = make_mesh(config['parallel'], jax.devices()[:1])
  program = build_program(config, families.build(config, spec), spec, mesh)
  return list(summary.opening(config, spec, program)), program


def test_the_opening_says_what_is_trained_where_and_on_what():
  (model, devices, data, *differences), program = lines_and_program('autoregressive')
  number = sum(leaf.size for leaf in jax.tree.leaves(program.step.shapes.params))
  assert f"autoregressive, network 'transformer', {number:,} parameters, " in model
  assert '1 × cpu (data 1 × fsdp 1 × tensor 1; mode jit), parameters in float32' in devices
  assert 'toy, 20 training examples, batches of 16, 1 step per epoch; steps in all: 40' in data
  assert 'differs from the default: network.width=16 (not 256)' in differences
  assert all(line.startswith('differs from the default: ') for line in differences)
  assert len(set(differences)) == len(differences) > 5


def test_a_batch_may_be_larger_than_the_data():
  _, _, data, *_ = lines_and_program('autoregressive', data__batch_size=50)[0]
  assert 'batches of 50, 2.5 epochs per step; steps in all: 40' in data


@pytest.mark.parametrize('family', tiny.FILES)
def test_the_operations_of_a_step_follow_from_the_batch_alone(family):
  lines, program = lines_and_program(family)
  work = program.work
  assert (work.unit, work.units, work.peak) == ('images', 16, None)
  assert 'FLOP per step of 16 images (' in lines[0]
  # At least 6 operations for each number of a kernel and each of the 16 examples.
  params = program.step.shapes.params
  kernels = [x for x in jax.tree.leaves(params.get('network', params)) if x.ndim > 1]
  assert work.flops > 0.5 * 6 * 16 * sum(x.size for x in kernels)
  others = ({'data__batch_size': 32}, {'train__micro_batches': 2}, {'train__steps_per_call': 1})
  flops = [lines_and_program(family, **changes)[1].work.flops for changes in others]
  assert flops == [2 * work.flops, work.flops, work.flops]
