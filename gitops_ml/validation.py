"""Schema and cross-field checks: text -> diagnostics and experiments."""
