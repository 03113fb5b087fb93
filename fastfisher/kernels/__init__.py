"""Compiled code and its NumPy reference; the contract of every op is in README.md beside this file."""
