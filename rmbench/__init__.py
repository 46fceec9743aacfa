"""rmbench: an experiment runner for reward models."""

__version__ = "0.1.0"
