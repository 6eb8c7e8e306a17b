"""The Ollama API over the service."""
