"""Is it exact? Proofs by comparison with the native model, also of models that rltr does not know."""
