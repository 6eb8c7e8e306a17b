from e2e.conftest import own_server, server, tiny_folder

__all__ = ["own_server", "server", "tiny_folder"]
