"""Load that is more than a server can compute at once: how it is made, and what becomes of each request."""
