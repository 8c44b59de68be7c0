"""Every setting of an autoregressive experiment, with its default; see the constructors named."""

from ml_collections import ConfigDict

from configs import base


def get_base() -> ConfigDict:
  """The base config of the autoregressive family."""
  config = base.get_base()
  config.family = 'autoregressive'
  config.update(
    ConfigDict(
      dict(
        ordering=dict(  # autoregressive/orderings.py
          name='patches',
          size=1,  # side of a patch; 1: raster pixels
          channels='together',  # 'apart': one emission per channel
        ),
        network=dict(  # autoregressive/networks/transformer.py
          name='transformer',
          width=256,
          layers=6,
          heads=4,
          kv_heads=0,  # 0: as many as heads; 1: multi-query
          head_dim=0,  # 0: width / heads
          mlp_width=0,  # 0: 4 * width
          activation='gelu_tanh',  # gelu, gelu_tanh, relu, relu2, swiglu, geglu
          norm='layer',  # 'layer' or 'rms'
          norm_position='pre',  # 'pre' or 'post'
          norm_eps=1e-5,
          positions='learned',  # learned, sinusoidal, rotary, alibi, none
          rotary_base=10_000.0,
          rotary_scaling=(),  # (name, factor, ...): linear, ntk, llama3
          bias=True,
          qk_norm=False,
          dropout=0.0,
          attention_cap=0.0,  # soft cap of attention scores; 0: none
          window=0,  # sliding window; 0: none
          scan=False,  # layers as one scan: faster to compile
          remat='',  # '', 'products' or 'nothing': what the backward pass keeps
          dtype='float32',  # of the matrix products
        ),
        head=dict(name='categorical', pad_to=1),  # autoregressive/heads.py
        model=dict(  # autoregressive/model.py
          tied=False,  # embeddings double as the last projection
          start='learned',  # 'learned', 'token' or 'none'
          start_token=0,  # for start='token'
          logit_cap=0.0,  # soft cap of the outputs; 0: none
          class_dropout=0.0,  # how often training hides the class: what guidance needs
        ),
        sampling=dict(  # autoregressive/decoding.py
          temperature=1.0,
          top_k=0,  # 0: off
          top_p=1.0,  # 1: off
          greedy=False,
          guidance=1.0,  # 1: off
        ),
      )
    )
  )
  return config
