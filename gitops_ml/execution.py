"""Carry out a plan: submit, watch, collect, cancel."""
