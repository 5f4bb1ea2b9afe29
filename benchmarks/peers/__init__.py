"""Servers we measure ourselves against, each a script that prints its address."""
