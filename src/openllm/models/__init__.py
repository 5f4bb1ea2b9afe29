"""Which model a name means and where its files are."""
