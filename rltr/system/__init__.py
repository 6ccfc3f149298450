"""Files, folders, locks, devices, clocks and signals; independent of models."""
