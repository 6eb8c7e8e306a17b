"""The Responses API over the service."""
