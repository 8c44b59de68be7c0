"""Metrics of a training run, from its log or its config, not from an evaluation."""

from collections.abc import Callable, Mapping

from common.evaluation.measures import Measure
from common.reporting import writers
from common.studies.plans import Job
from experiments.study.costs import cost_of, paper_cost


def _training_seconds(job: Job) -> Measure:
  # The first call includes compilation and does not count: a run of one call has no time.
  seconds = writers.training_seconds(job.folder) or None
  note = 'in training steps, without compilation'
  if job.stage is not None and seconds:
    of_stage = _training_seconds(job.stage).value
    seconds = seconds + of_stage if of_stage else None
    note += '; with those of the first stage'
  return Measure(seconds, 0.0, note)


def _training_flops(job: Job) -> Measure:
  note = (
    'of the loss and its gradient, in products and convolutions; steps × operations of its trace'
  )
  return Measure(float(cost_of(job).flops), 0.0, note)


def _validation_loss(job: Job) -> Measure:
  rows = writers.read(job.folder, 'validation')
  if not rows:
    return Measure(None, note='the run validates never: train.evaluate_every=0')
  return Measure(rows[-1]['loss'], None, 'of the last step')


def _best_validation_loss(job: Job) -> Measure:
  losses = [row['loss'] for row in writers.read(job.folder, 'validation')]
  if not losses:
    return Measure(None, note='the run validates never: train.evaluate_every=0')
  return Measure(min(losses), None, f'the least of {len(losses)} evaluations')


def _examples_seen(job: Job) -> Measure:
  examples = cost_of(job).steps * job.config['data']['batch_size']
  return Measure(float(examples), 0.0, 'in training steps; steps × batch size')


def _paper_share(job: Job) -> Measure:
  paper = job.row.paper_training
  if paper is None:
    return Measure(None, note='no training of a paper is named')
  share = cost_of(job).flops / paper_cost(paper).flops
  changed = ''.join(f', {name}={value}' for name, value in paper.settings.items())
  return Measure(share, 0.0, f'training FLOPs as a share of those of {paper.config}{changed}')


# By name: a function of the job.
RUN_METRICS: Mapping[str, Callable[[Job], Measure]] = {
  'training_seconds': _training_seconds,
  'training_flops': _training_flops,
  'examples_seen': _examples_seen,
  'paper_share': _paper_share,
  'validation_loss': _validation_loss,
  'best_validation_loss': _best_validation_loss,
}
OF_THE_CONFIG = ('training_flops', 'examples_seen', 'paper_share')  # known of a run that diverged
