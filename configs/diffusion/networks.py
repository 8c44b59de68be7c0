"""The networks of the papers, as settings, with their published numbers of parameters."""

UNETS = {
  # Ho et al. 2020, CIFAR-10: 35.7M parameters.
  'ddpm_cifar10': dict(
    name='unet', width=128, multipliers=(1, 2, 2, 2), blocks=2, attention=(16,), dropout=0.1
  ),
  # Song et al. 2021 as retrained by Karras et al. 2022, CIFAR-10: 55.7M parameters.
  'ddpm++_cifar10': dict(
    name='unet',
    width=128,
    multipliers=(2, 2, 2),
    blocks=4,
    attention=(16,),
    up_attention='last',
    dropout=0.13,
    resample_in_block=True,
    resample_projection=True,
    skip_rescale=True,
  ),
  'ncsn++_cifar10': dict(
    name='unet',
    width=128,
    multipliers=(2, 2, 2),
    blocks=4,
    attention=(16,),
    up_attention='last',
    dropout=0.13,
    embedding='fourier',
    embedding_width=256,
    resample_in_block=True,
    resample_projection=True,
    fir=True,
    skip_rescale=True,
    progressive_input=True,
  ),
  # Dhariwal & Nichol 2021, ImageNet 64x64: 296M parameters.
  'adm_imagenet64': dict(
    name='unet',
    width=192,
    multipliers=(1, 2, 3, 4),
    blocks=3,
    attention=(32, 16, 8),
    head_width=64,
    dropout=0.1,
    embedding='adm',
    scale_shift=True,
    resample_in_block=True,
  ),
}

# Peebles & Xie 2022, table 1: 33M, 130M, 458M and 675M parameters; the patch size is a separate
# choice.
DITS = {
  'S': dict(name='dit', width=384, depth=12, heads=6),
  'B': dict(name='dit', width=768, depth=12, heads=12),
  'L': dict(name='dit', width=1024, depth=24, heads=16),
  'XL': dict(name='dit', width=1152, depth=28, heads=16),
}
