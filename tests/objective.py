"""Objectives as functions of some variables; the same objects for all tests, so compiled once."""

from landscape.autodiff import objectives

WEIGHTS = ("W", "V", "log_d")


def elbo(variables, params, moments, beta=1.0):
    """The β-ELBO with these variables in the place of the parameters' own."""
    return objectives.elbo(params, moments, beta=beta).function(variables)


def variables_of(params, moments, learn=WEIGHTS):
    return objectives.elbo(params, moments, learn=learn).variables


def likelihood(variables, sigma2, moments):
    """The pPCA log-likelihood at W, and at this σ² unless that is among the variables."""
    return objectives.log_likelihood(variables["W"], sigma2, moments).function(variables)
