"""Vectors <-> codes."""
