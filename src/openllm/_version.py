"""The one place that holds the version; the changelog is checked against it."""

__version__ = "0.1.0"
