"""YAML text -> plain data that remembers line and column."""
