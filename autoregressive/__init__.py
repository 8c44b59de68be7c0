"""Causal autoregression. `build` turns a config and a description of the data into a `Method`."""

from autoregressive.finetuning import build_finetune, initial_params
from autoregressive.method import build, build_draft

__all__ = ['build', 'build_draft', 'build_finetune', 'initial_params']
