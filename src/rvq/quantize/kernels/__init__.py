"""Nearest-codeword search, several times: a readable definition and faster equals of it."""
