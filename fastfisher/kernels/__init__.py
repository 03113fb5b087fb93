"""Compiled code and its NumPy reference; README.md beside this file is the contract."""
