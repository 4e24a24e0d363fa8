"""Machines of AWS EC2, one per trial."""
