"""Where training data comes from: one file per kind of URI, behind ``base``."""
