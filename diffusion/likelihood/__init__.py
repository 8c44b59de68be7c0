"""Likelihoods by name: the variational bound, and that of the probability flow."""

from diffusion.likelihood.bound import VLB
from diffusion.likelihood.flow import FlowLikelihood

LIKELIHOODS = {'vlb': VLB, 'flow': FlowLikelihood}
