"""Samples -> effect, interval, p-value, in plain Python."""
