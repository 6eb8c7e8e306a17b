"""Load on a running server, and what it took: a cheap HTTP client, and the figures made of what it saw."""
