"""Every setting of an autoregressive experiment, with its default; see the constructors named.

A component is a dict with a `name` and the settings of that name. The tables hold the components
other than the defaults, for configs to start from: `config.network = NETWORKS['lstm']`.
"""

from ml_collections import ConfigDict

from configs import base

ORDERINGS = {  # autoregressive/orderings.py; patches stand below
  'tokens': dict(name='tokens'),
  'windows': dict(name='windows', scale_offset=1.0),  # a window's scale: this + mean |its past|
}

NETWORKS = {  # autoregressive/networks; the transformer stands below
  'lstm': dict(name='lstm', width=256, layers=2, dropout=0.0, dtype='float32'),
  'gru': dict(name='gru', width=256, layers=2, dropout=0.0, dtype='float32'),
  'tcn': dict(
    name='tcn',
    width=256,
    layers=6,  # residual blocks of two convolutions
    kernel=3,
    growth=2,  # of the dilation from block to block
    dropout=0.0,
    weight_norm=True,
    dtype='float32',
  ),
  'pixelcnn': dict(name='pixelcnn', width=64, layers=7, kernel=3, first_kernel=7, dtype='float32'),
  'gated_pixelcnn': dict(
    name='gated_pixelcnn', width=64, layers=8, kernel=3, first_kernel=7, dtype='float32'
  ),
  'pixelcnn_pp': dict(
    name='pixelcnn_pp',
    width=160,
    blocks=5,  # to a level, on the way in
    levels=3,  # resolutions
    dropout=0.5,
    conditional=True,  # the class reaches every block
    weight_norm=True,
    dtype='float32',
  ),
}

HEADS = {  # autoregressive/heads/categorical.py
  'categorical': dict(name='categorical', pad_to=1),
  'bernoulli': dict(name='bernoulli'),
  'logistic_mixture': dict(name='logistic_mixture', components=10),
  'gaussian': dict(name='gaussian'),
  'student_t': dict(name='student_t'),
  'negative_binomial': dict(name='negative_binomial'),
  'quantiles': dict(name='quantiles', levels=(0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)),
}


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
          attention='auto',  # how to compute it: auto, whole, blocks, library, splash
          base_width=0,  # 0: standard; else muP, with learning rates as tuned at this width
          scan=False,  # layers as one scan: faster to compile
          remat='',  # '', 'products' or 'nothing': what the backward pass keeps
          dtype='float32',  # of the matrix products
        ),
        head=HEADS['categorical'],
        model=dict(  # autoregressive/model.py
          tied=False,  # embeddings double as the last projection
          start='learned',  # 'learned', 'token' or 'none'
          start_token=0,  # for start='token'
          logit_cap=0.0,  # soft cap of the outputs; 0: none
          class_dropout=0.0,  # how often training hides the class: what guidance needs
        ),
        objective=dict(  # autoregressive/objectives.py
          z_loss=0.0,  # 0: off
          label_smoothing=0.0,  # 0: off
          documents=False,  # text: a position sees its own document alone
          positions='all',  # 'one': a random position of each example counts
        ),
        finetune=dict(  # autoregressive/finetuning.py
          source='',  # WORKDIR of a run or a folder of published weights; empty: begin anew
          step='last',  # of the run: 'last', 'best' or a number as text
          fresh='',  # paths of parameters that begin anew
          lora_rank=0,  # 0: off; needs optimizer.frozen='^base/'
          lora_alpha=16.0,
          lora_paths='(qkv|out|output_proj|up|down)/kernel$',
        ),
        sampling=dict(  # autoregressive/decoding/transforms.py
          temperature=1.0,
          top_k=0,  # 0: off
          top_p=1.0,  # 1: off
          min_p=0.0,  # 0: off
          repetition_penalty=1.0,  # 1: off
          frequency_penalty=0.0,  # 0: off
          greedy=False,
          guidance=1.0,  # 1: off
          beams=1,  # beam search; 1: off
          length_penalty=1.0,  # of beams
          length=0,  # tokens or frames to make, of text or music; 0: as many as trained on
          stop=(),  # token sequences, or texts, that end a sample
          slide=False,  # go on beyond the length that the model was trained on
          draft_ahead=4,  # tokens that a draft model proposes at once
          prefill_chunk=0,  # emissions of a prompt taken in at once; 0: what suits the network
        ),
      )
    )
  )
  return config
