"""Files, folders, locks, devices, clocks and interruptions: nothing here knows about models."""
