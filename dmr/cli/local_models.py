"""The store on this machine's disk, for when no server runs: the calls about models that a server's client has."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, TypeVar, cast

import msgspec

from dmr.cli.missing import no_such_model
from dmr.cli.replies import Model
from dmr.cli.transport import Pieces
from dmr.cli.upload import StreamUpload
from dmr.errors import ModelNotFound, Unsupported
from dmr.store.store import ModelStore
from dmr.types import ModelRecord, Repackaging

if TYPE_CHECKING:
    from dmr.store.packaging import Package

T = TypeVar("T")


class LocalModels:
    """The models below `root`. Errors are the store's own."""

    def __init__(self, root: Path) -> None:
        self.store = ModelStore(root)

    def list_models(self, kind: type[T]) -> list[T]:
        return [_as(record, kind) for record in self.store.models()]

    def get_model(self, name: str, kind: type[T], *, remote: bool = False) -> T:
        """One model; raises `ModelNotFound`."""
        if remote:
            raise Unsupported("A registry is read by a server: start one with `dmr serve`.")
        with _missing_model(name):
            return _as(self.store.get(name, loose=True), kind)

    def remove_model(self, name: str, *, force: bool) -> list[dict[str, str]]:
        """Remove a tag or a model; what was done, in order. Raises `ModelNotFound`, `Conflict`."""
        with _missing_model(name):
            removal = self.store.remove(name, force)
        return [*({"Untagged": tag} for tag in removal.untagged), *({"Deleted": id} for id in removal.deleted)]

    def tag_model(self, source: str, repository: str, tag: str) -> None:
        """Give a model another name; raises `ModelNotFound`."""
        with _missing_model(source):
            self.store.tag(source, f"{repository}:{tag}")

    def load_archive(self, name: str, upload: StreamUpload) -> Model:
        """Take in a model's archive; without a name the archive says it."""
        from dmr.store.archive import load_archive

        return _as(load_archive(self.store, cast("BinaryIO", upload), name), Model)

    @contextlib.contextmanager
    def export(self, name: str) -> Iterator[Pieces]:
        """A model's archive; raises `ModelNotFound`."""
        from dmr.store.archive import open_archive

        with _missing_model(name):
            archive = open_archive(self.store, name)
        with contextlib.closing(archive):
            yield Pieces(archive, archive.size)

    def package(self, name: str, package: Package, progress: Callable[[int, int], None]) -> Model:
        """Make a model of files."""
        from dmr.store.packaging import package_into

        return _as(package_into(self.store, package, name, progress), Model)

    def repackage(self, name: str, wish: Repackaging) -> Model:
        """Make a model of another one's files; raises `ModelNotFound`."""
        from dmr.store.repackage import repackage_model

        with _missing_model(name):
            return _as(repackage_model(self.store, name, wish), Model)

    def add_file(self, file: BinaryIO, size: int, digest: str) -> None:
        """Take in a file of which a model is to be made."""
        if not self.store.has_file(digest):
            self.store.add_file(file, size, digest)

    def purge(self, *, force: bool) -> None:
        """Remove all models. Raises Conflict: a server elsewhere uses one, and not `force`."""
        self.store.purge(force)

    def verify(self, name: str) -> list[str]:
        """The digests of a model's files that are damaged or missing; raises `ModelNotFound`."""
        with _missing_model(name):
            return list(self.store.verify(name))

    def disk_usage(self) -> dict[str, int]:
        """Bytes by kind."""
        usage = self.store.usage()
        return {
            "models_disk_usage": usage.total,
            "incomplete_disk_usage": usage.unfinished,
            "reclaimable_disk_usage": usage.reclaimable,
        }


def _as(record: ModelRecord, kind: type[T]) -> T:
    """A record in the shape of `GET /models`."""
    shape: dict[str, Any] = {"id": record.id, "tags": record.tags, "created": record.created, "config": record.config}
    if not record.tags:
        del shape["tags"]
    return msgspec.convert(msgspec.to_builtins(shape), kind)


@contextlib.contextmanager
def _missing_model(name: str) -> Iterator[None]:
    try:
        yield
    except ModelNotFound:
        raise no_such_model(name) from None
