"""Posterior of a whole scan by its pixels."""
