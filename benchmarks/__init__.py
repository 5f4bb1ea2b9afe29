"""Benchmarks of the whole product; `python -m benchmarks --help` lists them."""
