"""Codes <-> bytes."""
