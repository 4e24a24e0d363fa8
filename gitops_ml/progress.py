"""How a run is shown: live lines on a terminal, plain ones elsewhere."""
