"""Where code, logs, checkpoints and large outputs go: one file per kind, behind ``base``."""
