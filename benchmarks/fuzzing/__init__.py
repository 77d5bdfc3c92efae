"""Inputs of every kind that a user, a script or a damaged disk may hand to the package."""
