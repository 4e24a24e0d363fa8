"""Where changes are reviewed: one file per forge, behind the contract in ``base``."""
