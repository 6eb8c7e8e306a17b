"""Put the starter model into the model store under its two names, where they are free.

    python third_party/import_starter_model.py FILE

Needs dmr installed. A name that is taken, by whatever model, stays as it is.
"""

from __future__ import annotations

import sys
from pathlib import Path

from dmr.config import read_settings
from dmr.errors import DmrError, ModelNotFound
from dmr.store.store import ModelStore

NAMES = ("ai/smollm2:135M-Q4_1", "ai/smollm2:latest")


def is_there(store: ModelStore, name: str) -> bool:
    try:
        store.get(name)
    except ModelNotFound:
        return False
    return True


def main(file: Path) -> None:
    store = ModelStore(read_settings().models_path)
    for name in NAMES:
        if not is_there(store, name):
            print(f"[starter model] importing {name} into {store.root}", file=sys.stderr, flush=True)
            store.import_gguf(file, name)


if __name__ == "__main__":
    try:
        main(Path(sys.argv[1]))
    except DmrError as error:
        raise SystemExit(f"The starter model could not be imported: {error.message}") from None
