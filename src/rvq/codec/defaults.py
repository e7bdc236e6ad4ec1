"""What the codec does unless told otherwise; it imports nothing, so that help appears at once."""

BEAM_SIZE = 8
"""Code sequences that searches follow at once; docs/experiments.md, 13."""
