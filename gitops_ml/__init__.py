"""Deep learning experiments, reviewed like code."""

__version__ = "0.1.0.dev0"
