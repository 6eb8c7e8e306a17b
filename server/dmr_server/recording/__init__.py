"""What is remembered of requests: counts for /metrics, and the last ones of each model for /engines/requests."""
