"""Installs twofold: score-based diffusion and causal autoregression, side by side, in JAX."""

import pathlib

import setuptools

CORE = [
  'absl-py>=2.1',
  'diffrax>=0.7.2',
  'flax>=0.12',
  'grain>=0.2.14',
  'importlib_resources>=6.4',  # tensorflow-datasets needs it and does not declare it
  'jax>=0.10',
  'jaxtyping>=0.3',
  'jinja2>=3.1',
  'matplotlib>=3.9',
  'ml-collections>=1.0',
  'numpy>=2.0',
  'optax>=0.2.5',
  'orbax-checkpoint>=0.12',
  'pillow>=11.0',
  'pyyaml>=6.0',
  'safetensors>=0.5',
  'scikit-learn>=1.6',
  'scipy>=1.15',
  'tensorboardX>=2.6',
  'tensorflow-datasets>=4.9.9',
  'threadpoolctl>=3.5',
  'tqdm>=4.67',
]

EXTRAS = {
  'test': [
    'beartype>=0.20',
    'gcsfs>=2026.2',
    'gguf>=0.17',
    'mido>=1.3.3',
    'pytest>=8.3',
    'pytest-xdist>=3.6',
    'ruff>=0.11',
    'tokenizers>=0.22',
    'zstandard>=0.23',  # JAX compresses its compilation cache with it, faster than with zlib
  ],
  'tpu': ['jax[tpu]'],
  'cuda': ['jax[cuda13]'],
  'prepare': ['tensorflow-cpu>=2.20'],  # only to prepare TFDS's own sets; never at training time
  'text': ['tokenizers>=0.22'],  # byte pairs; bytes and characters do without
  'weights': ['gguf>=0.17', 'tokenizers>=0.22'],  # GGUF files; folders of weights do without gguf
  'parquet': ['pyarrow>=17'],  # Parquet files of time series; CSV does without
  'music': ['mido>=1.3.3'],  # MIDI files; pictures do without
  'forecasts': ['statsforecast>=2.0'],  # ETS, Theta and ARIMA as baselines; naive ones do without
  'launch': ['skypilot[gcp]>=0.11'],  # for --backend=sky; its click is older than constraints.txt's
  'gcs': ['gcsfs>=2026.2'],  # runs and data in buckets of Cloud Storage
  'peers': [
    'torch>=2.9',
    'diffusers>=0.35',
    'transformers>=4.57',
    'statsforecast>=2.0',
    'nltk>=3.9',
  ],
}

README = pathlib.Path(__file__).with_name('README.md')

setuptools.setup(
  name='twofold',
  version='0.1.0',
  description='Score-based diffusion and causal autoregressive transformers, side by side, in JAX.',
  long_description=README.read_text(encoding='utf-8'),
  long_description_content_type='text/markdown',
  license='Apache-2.0',
  python_requires='>=3.11',
  packages=setuptools.find_packages(
    include=['autoregressive*', 'common*', 'configs*', 'diffusion*', 'experiments*', 'twofold*']
  ),
  package_data={'common.reporting': ['*.jinja'], 'experiments.launch': ['*.sh']},
  entry_points={'console_scripts': ['twofold = twofold.__main__:main']},
  install_requires=CORE,
  extras_require=EXTRAS,
)
