"""The settings that training does not depend on.

They may change when a run resumes, and rows of a study that differ only in them share one trained
model. An entry is a setting, or a section if it ends with a dot. `precision` is not among them: the
parameters are float32 in all, but the steps differ, so a run keeps the precision it began with;
`finetune.source` continues from its parameters in another.
"""

SAMPLING = ('sampling.',)
MEASURING = ('evaluation.', 'likelihood.')
# Of these, rows of a study may differ in what they are asked, but not in how it is measured.
OF_A_ROW = ('evaluation.context',)
# Where a run is, how fast, in how much memory. A first stage may have moved: its digest is checked.
PLACE = ('parallel.', 'data.dir', 'data.first_stage', 'model.chunk')
REPORTING = (
  'train.log_every',
  'train.evaluate_every',
  'train.sample_every',
  'train.checkpoint_every',
  'train.keep',
  'train.best_metric',
  'train.best_mode',
  'train.max_bad_steps',
  'train.profile',
  'ema.snapshot_every',
  'ema.keep',
)

CHANGEABLE = (*SAMPLING, *MEASURING, *PLACE, *REPORTING)


def is_changeable(key: str) -> bool:
  """Whether a setting, by its dotted key, may differ between two parts of one run."""
  return any(key.startswith(entry) if entry.endswith('.') else key == entry for entry in CHANGEABLE)
