"""The sections of a diffusion experiment, in addition to those of `configs/base.py`.

A component is a dict with a `name` and the settings that differ from its defaults. Each name is a
key of a table, and each default is in the signature of a constructor: the comment at the section
names the file of both. `experiments.families.complete` fills in the defaults.
"""

from ml_collections import ConfigDict

from configs import base


def get_base() -> ConfigDict:
  """The base config of the diffusion family: class-conditional, on the cosine VP process."""
  config = base.get_base()
  config.family = 'diffusion'
  config.update(
    dict(
      conditional=True,  # tell the network the class, if the data has classes
      label_dropout=0.1,  # share of the training examples whose class is hidden, for guidance
      process=dict(name='cosine'),  # diffusion/processes/__init__.py
      network=dict(name='dit', width=192, depth=6),  # diffusion/networks/__init__.py
      prediction=dict(  # what the network is given and what it predicts
        target='v',  # x0, eps, v, velocity, score, edm
        sigma_data=0.5,  # standard deviation of the data in [-1, 1]
        scale_input=True,  # feed the network x at unit variance (EDM's c_in)
        noise='log_snr',  # the network's measure of the noise level: time, log_snr, edm
        variance='fixed_small',  # of discrete reverse steps: fixed_small, fixed_large, learned
      ),
      objective=dict(  # the loss
        weighting=dict(name='simple'),  # diffusion/objectives/__init__.py: WEIGHTINGS
        times=dict(name='low_discrepancy'),  # the distribution of times in training; same file
        hybrid=0.001,  # with a learned variance: weight of the bound that is added to the loss
        uncertainty=False,  # balance the noise levels by a learned uncertainty (EDM2)
      ),
      classifier=dict(  # classifies noisy data, trained together with the model, to guide it
        weight=0.0,  # weight of its cross-entropy in the loss; 0: no classifier
        network=dict(name='mlp'),  # diffusion/networks/__init__.py
      ),
      augmentation=dict(  # a condition of the network, so that samples show none (EDM)
        probability=0.0,  # probability of each kind; 0: off
        x_flip=True,  # left and right
        y_flip=True,  # up and down
        scale=0.2,  # standard deviation of log2
        rotate=1.0,  # share of a half turn
        anisotropy=0.2,  # standard deviation of log2
        translate=0.125,  # standard deviation, relative to the image's size
      ),
      sampling=dict(  # how samples are drawn
        task=dict(  # what is drawn
          name='generate',  # a key of diffusion/sampling/tasks.py: inpaint, sdedit, ...
          strength=0.5,  # sdedit: share of the steps to take
          jump=5,  # repaint: number of steps in a stretch
          repeats=5,  # repaint: how often each stretch is denoised
        ),
        sampler=dict(name='ddim'),  # diffusion/sampling/driver.py
        steps=50,  # of the sampler
        grid=dict(  # diffusion/sampling/grids.py
          name='uniform',  # and the settings of the grid
          end='clean',  # for every grid: the last time is 0 ('clean') or 't_min'
        ),
        guidance=dict(  # towards the requested class
          weight=1.0,  # 1: no guidance; above 1: guided
          low=0.0,  # guide only where low < sigma/alpha <= high
          high=0.0,  # 0: no upper end
          rescale=0.0,  # φ of Lin et al. 2023: how far the contrast is restored; 0: off
          classifier=0.0,  # scale of classifier guidance, in addition to the above; 0: off
        ),
        threshold=dict(  # how clean estimates are clipped
          name='static',  # none, static, or dynamic (Imagen)
          bound=1.0,  # static: the largest size; dynamic: the least bound
          percentile=0.995,  # dynamic: of the sizes of one example
        ),
        final_denoise=False,  # one more evaluation at the end, if the grid ends at t_min
      ),
      likelihood=dict(name='vlb'),  # diffusion/likelihood/__init__.py
    )
  )
  return config
