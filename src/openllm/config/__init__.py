"""Settings, each written once: a pydantic field gives its flag, its checks and its help text."""
