"""The BentoML edge: one lean service around our ASGI app, and the process that serves it."""
