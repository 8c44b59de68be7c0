"""Every setting of the diffusion family with its default.

A component is a dict with a `name` and the settings of that name. The tables below hold each
component with all its settings, for configs to start from: `config.process = PROCESSES['edm']`.
"""

from ml_collections import ConfigDict

from configs import base

PROCESSES = {
  'vp_linear': dict(name='vp_linear', beta_min=0.1, beta_max=20.0, t_min=1e-5, t_max=1.0),
  'cosine': dict(name='cosine', s=0.008, t_min=1e-4, t_max=0.999),
  'sigmoid': dict(name='sigmoid', start=-3.0, end=3.0, tau=1.0, t_min=1e-4, t_max=0.999),
  'shifted': dict(
    name='shifted',
    log_snr_max=15.0,
    log_snr_min=-15.0,
    resolution=64,
    base_resolution=64,
    t_min=1e-5,
    t_max=1.0,
  ),
  'sub_vp': dict(name='sub_vp', beta_min=0.1, beta_max=20.0, t_min=1e-3, t_max=1.0),
  've': dict(name='ve', sigma_min=0.01, sigma_max=50.0, t_min=1e-5, t_max=1.0),
  'edm': dict(name='edm', sigma_min=0.002, sigma_max=80.0),
  'rectified_flow': dict(name='rectified_flow', t_min=1e-3, t_max=1.0),
  'gvp': dict(name='gvp', t_min=1e-3, t_max=1.0),
  'vp_interpolant': dict(name='vp_interpolant', t_min=1e-3, t_max=0.9999),
  'ddpm': dict(name='ddpm', schedule='linear', steps=1000, scaled=True),
  'learned': dict(name='learned', log_snr_max=13.3, log_snr_min=-5.0, width=1024, t_min=1e-5),
}

WEIGHTINGS = {
  'simple': dict(name='simple'),
  'snr': dict(name='snr'),
  'snr_plus_one': dict(name='snr_plus_one'),
  'truncated_snr': dict(name='truncated_snr'),
  'min_snr': dict(name='min_snr', gamma=5.0),
  'soft_min_snr': dict(name='soft_min_snr', gamma=4.0),
  'p2': dict(name='p2', k=1.0, gamma=1.0),
  'sigmoid': dict(name='sigmoid', bias=2.0),
  'edm': dict(name='edm', sigma_data=0.5),
  'vlb': dict(name='vlb'),
  'likelihood': dict(name='likelihood'),
}

TIMES = {
  'uniform': dict(name='uniform'),
  'low_discrepancy': dict(name='low_discrepancy'),
  'log_normal': dict(name='log_normal', mean=-1.2, std=1.2),
  'logit_normal': dict(name='logit_normal', mean=0.0, std=1.0),
  'loss_second_moment': dict(name='loss_second_moment', buckets=100, history=10.0, floor=0.001),
  'terminal': dict(name='terminal'),
}

NETWORKS = {
  'dit': dict(
    name='dit',
    patch=2,
    width=384,
    depth=12,
    heads=6,
    mlp_ratio=4.0,
    dropout=0.0,
    embedding='adm',
    augment_dim=0,
    dtype='float32',
    scan=True,
    remat=False,
  ),
  'unet': dict(
    name='unet',
    width=64,
    multipliers=(1, 2, 2),
    blocks=2,
    attention=(),
    up_attention='every',
    head_width=0,
    dropout=0.0,
    embedding='ddpm',
    embedding_width=0,
    augment_dim=0,
    scale_shift=False,
    resample_in_block=False,
    resample_projection=False,
    fir=False,
    skip_rescale=False,
    progressive_input=False,
    dtype='float32',
    remat=False,
  ),
  'mlp': dict(name='mlp', width=128, depth=3, dropout=0.0, embedding='adm'),
}

GRIDS = {
  'uniform': dict(name='uniform', end='clean'),
  'quadratic': dict(name='quadratic', end='clean'),
  'log_snr': dict(name='log_snr', end='clean'),
  'karras': dict(name='karras', rho=7.0, end='clean'),
  'respaced': dict(name='respaced', spacing='adm', sections=(), end='clean'),
  'given': dict(name='given', times=(), end='clean'),
}

LIKELIHOODS = {
  'vlb': dict(name='vlb', terms=32),
  'flow': dict(
    name='flow',
    trace='hutchinson',
    probe='rademacher',
    probes=1,
    dequantization='uniform',
    samples=2,
    importance=False,
    solver='dopri5',
    rtol=1e-5,
    atol=1e-5,
    max_steps=4096,
  ),
}


def get_base() -> ConfigDict:
  """The base config with the sections of the diffusion family: a class-conditional cosine VP."""
  config = base.get_base()
  config.family = 'diffusion'
  config.update(
    dict(
      conditional=True,  # tell the network the class, where the data has classes
      label_dropout=0.1,  # share of the training examples whose class is hidden, for guidance
      process=PROCESSES['cosine'],
      network=NETWORKS['dit'] | dict(width=192, depth=6),
      prediction=dict(
        target='v',  # x0, eps, v, velocity, score, edm
        sigma_data=0.5,  # standard deviation of the data in [-1, 1]
        scale_input=True,  # feed the network x at unit variance (EDM's c_in)
        noise='log_snr',  # what the network is told: time, log_snr, edm
        variance='fixed_small',  # of discrete reverse steps: fixed_small, fixed_large, learned
      ),
      objective=dict(
        weighting=WEIGHTINGS['simple'],
        times=TIMES['low_discrepancy'],
        hybrid=0.001,  # with a learned variance: weight of the bound beside the weighting
        uncertainty=False,  # balance the noise levels by a learned uncertainty (EDM2)
      ),
      classifier=dict(  # of noisy data, trained beside the model to guide it
        weight=0.0,  # of its cross-entropy in the loss; 0: none
        network=NETWORKS['mlp'],
      ),
      augmentation=dict(  # the network is told of it, so that samples show none (EDM)
        probability=0.0,  # of each kind; 0: off
        x_flip=True,
        y_flip=True,
        scale=0.2,
        rotate=1.0,
        anisotropy=0.2,
        translate=0.125,
      ),
      sampling=dict(
        task=dict(
          name='generate',  # a key of diffusion/sampling/tasks.py: inpaint, sdedit, ...
          strength=0.5,  # sdedit: share of the steps to take
          jump=5,  # repaint: steps of a stretch,
          repeats=5,  # and how often each is denoised
        ),
        sampler=dict(name='ddim', eta=0.0),
        steps=50,
        grid=GRIDS['uniform'],
        guidance=dict(
          weight=1.0,  # 1 is the model as it is, above it is guided
          low=0.0,  # guide only where low < sigma/alpha <= high
          high=0.0,  # 0: without an upper end
          rescale=0.0,  # share of the contrast that is brought back (Lin et al. 2023)
          classifier=0.0,  # scale of guidance by the classifier, beside the above; 0: off
        ),
        threshold=dict(name='static', bound=1.0, percentile=0.995),  # none, static, dynamic
        final_denoise=False,  # one more evaluation, where the grid ends at t_min
      ),
      likelihood=LIKELIHOODS['vlb'],
    )
  )
  return config
