"""A frozen model run with fewer tokens: the ragged batch, its attention, the forward pass.

Needs torch and transformers only, and imports nothing of the other rooms but :mod:`rltr.system`.
"""
