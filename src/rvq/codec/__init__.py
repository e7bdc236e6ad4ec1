"""Waveforms <-> codes <-> files, without torch."""
