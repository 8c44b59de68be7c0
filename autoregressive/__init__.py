"""Causal autoregression. `build` turns a config and a description of the data into a `Method`."""

from autoregressive.finetuning import begin, build_finetune
from autoregressive.method import build, build_draft

__all__ = ['begin', 'build', 'build_draft', 'build_finetune']
