"""Check that reduced passes are exact, by comparison with the native model; also for unknown model types."""
