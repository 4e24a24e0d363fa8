"""Where jobs run: one file per backend, behind the contract in ``base``."""
