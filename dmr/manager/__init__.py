"""The manager process: the only writer of the store and of what is loaded. It never sees a prompt or a token."""
