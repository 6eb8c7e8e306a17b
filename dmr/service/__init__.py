"""The one door for everything outside: what is asked of models, and of the store and the manager behind them."""

from dmr.service.service import Service

__all__ = ["Service"]
