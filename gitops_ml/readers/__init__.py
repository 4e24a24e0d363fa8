"""How metrics are read: one file per format, behind the contract in ``base``."""
