"""Chat: a conversation to a prompt, the model's text to events. Thin over the native templates and parsers."""
