"""What a run says before its first step and after its last."""

import dataclasses

import jax
import pytest

from common.training.parallel import PlacedStep, make_mesh
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
  assert 'toy, 20 training examples, batches of 16, 1 step per epoch; 40 steps in all' in data
  assert 'differs from the default: network.width=16 (not 256)' in differences
  assert all(line.startswith('differs from the default: ') for line in differences)
  assert len(set(differences)) == len(differences) > 5


def test_a_batch_may_be_larger_than_the_data():
  _, _, data, *_ = lines_and_program('autoregressive', data__batch_size=50)[0]
  assert 'batches of 50, 2.5 epochs per step; 40 steps in all' in data


@pytest.mark.parametrize('family', tiny.FILES)
def test_the_operations_of_a_step_do_not_depend_on_its_placement(family):
  _, program = lines_and_program(family)
  struct = tiny.data(classes=3).spec.batch_struct(16)
  calls = {k: jax.ShapeDtypeStruct((2, *v.shape), v.dtype) for k, v in struct.items()}
  one = program.step.flops(calls)
  assert one == PlacedStep.flops(program.step, calls)
  assert one == dataclasses.replace(program.step, unrolled=True).flops(calls)
  # At least 6 operations for each number of a kernel and each of the 16 examples.
  kernels = [x for x in jax.tree.leaves(program.step.shapes.params['network']) if x.ndim > 1]
  assert one > 0.5 * 6 * 16 * sum(x.size for x in kernels)
