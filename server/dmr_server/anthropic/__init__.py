"""The Anthropic API over the service."""
