"""The parts of a loss, by name: which times are trained on, and how much each counts."""

from diffusion.objectives import times, weightings

WEIGHTINGS = {
  'simple': weightings.Simple,
  'snr': weightings.SNR,
  'snr_plus_one': weightings.SNRPlusOne,
  'truncated_snr': weightings.TruncatedSNR,
  'min_snr': weightings.MinSNR,
  'soft_min_snr': weightings.SoftMinSNR,
  'p2': weightings.P2,
  'edm': weightings.EDM,
  'vlb': weightings.VLB,
  'sigmoid': weightings.Sigmoid,
  'likelihood': weightings.Likelihood,
}

TIME_DISTRIBUTIONS = {
  'uniform': times.Uniform,
  'low_discrepancy': times.LowDiscrepancy,
  'log_normal': times.LogNormal,
  'logit_normal': times.LogitNormal,
  'loss_second_moment': times.LossSecondMoment,
  'terminal': times.Terminal,
}
