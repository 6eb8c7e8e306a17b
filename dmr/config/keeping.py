"""One settings file for all processes of a server, whatever becomes of the original while it runs.

Processes that die are started again and read the settings anew: a file that is being edited must neither keep them
from starting nor give them other settings than their fellows have.
"""

from __future__ import annotations

import os
from collections.abc import MutableMapping
from pathlib import Path

from dmr.config.file import PATH_VARIABLE, SettingsFile


def keep_file(file: SettingsFile | None, folder: Path, environ: MutableMapping[str, str]) -> Path | None:
    """From here on, this process and its children read a copy in `folder`, which is made if it is not there.

    Returns the copy; None if there is no file, then none that appears later is read either. Raises OSError.
    """
    if file is None:
        environ[PATH_VARIABLE] = os.devnull
        return None
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    copy = folder / f"settings-{os.getpid()}.toml"
    copy.write_text(file.text, encoding="utf-8")
    environ[PATH_VARIABLE] = str(copy)
    return copy
