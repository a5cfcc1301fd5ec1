"""Sampling and training through the Tinker client API."""
