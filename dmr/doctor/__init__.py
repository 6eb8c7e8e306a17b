"""What keeps a server from running well on this machine, found out before a user does. Nothing is changed here."""

from dmr.doctor.finding import Finding, Level

__all__ = ["Finding", "Level"]
