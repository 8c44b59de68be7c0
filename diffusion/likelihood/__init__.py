"""Estimators of the likelihood, by name: the variational bound and the probability flow."""

from diffusion.likelihood.bound import VLB
from diffusion.likelihood.flow import FlowLikelihood

LIKELIHOODS = {'vlb': VLB, 'flow': FlowLikelihood}
