"""Likelihoods by name: the variational bound, and that of the probability flow."""

from diffusion.likelihood.bound import vlb
from diffusion.likelihood.flow import flow_likelihood

LIKELIHOODS = {'vlb': vlb, 'flow': flow_likelihood}
