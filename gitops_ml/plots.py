"""Comparison -> deterministic SVG."""
