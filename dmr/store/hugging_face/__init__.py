"""Models of the Hugging Face hub: found, brought into the store, and sent there, by its HTTP API."""
