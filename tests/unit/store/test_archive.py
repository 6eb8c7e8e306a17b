"""Models as archives: what is loaded, what is refused, and that what is exported can be loaded elsewhere."""

from __future__ import annotations

import io
import json
import random
import tarfile
from pathlib import Path

import pytest
from unit.store.archives import blob_path, digest, manifest_of, tar_of, upstream_archive
from unit.store.gguf_bytes import gguf_bytes

from dmr.errors import DmrError, InvalidModelFile, InvalidReference, ModelNotFound, StoreError
from dmr.store.archive import load_archive, open_archive
from dmr.store.blobs import BlobStore
from dmr.store.store import ModelStore

WEIGHTS = gguf_bytes()
CONFIG = b'{"config":{"format":"gguf"}}'


@pytest.fixture
def store(tmp_path: Path) -> ModelStore:
    return ModelStore(tmp_path / "models")


def load(store: ModelStore, data: bytes, reference: str = "") -> str:
    return load_archive(store, io.BytesIO(data), reference).id


def files_of(store: ModelStore, folder: str) -> set[str]:
    return {path.name for path in (store.root / folder / "sha256").glob("*")}


def exported(store: ModelStore, reference: str) -> bytes:
    with open_archive(store, reference) as archive:
        data = archive.read()
        assert len(data) == archive.size
    return data


# --- what is loaded --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_upstreams_archive_has_no_name(store: ModelStore, kind: int) -> None:
    members = upstream_archive(WEIGHTS)
    model_id = load(store, tar_of(members, kind))
    assert model_id == digest(members["manifest.json"])
    assert store.get(model_id).tags == ()
    assert store.files(model_id).weights[0].read_bytes() == WEIGHTS
    assert store.verify(model_id) == []
    assert files_of(store, "uploads") == set()


def test_the_order_of_members_does_not_matter_and_names_may_begin_with_a_dot(store: ModelStore) -> None:
    members = upstream_archive(WEIGHTS)
    folder = tarfile.TarInfo("./blobs")
    folder.type = tarfile.DIRTYPE
    pairs = [(folder, b"")]
    for name, data in reversed(members.items()):
        info = tarfile.TarInfo(f"./{name}")
        info.size = len(data)
        pairs.append((info, data))
    assert store.files(load(store, tar_of(pairs), "x")).weights[0].read_bytes() == WEIGHTS


def test_a_name_that_is_asked_for_goes_before_the_archives_own(store: ModelStore, tmp_path: Path) -> None:
    load(store, tar_of(upstream_archive(WEIGHTS)), "me/one:v1")
    data = exported(store, "me/one:v1")
    other = ModelStore(tmp_path / "other")
    assert load_archive(other, io.BytesIO(data)).tags == ("docker.io/me/one:v1",)
    assert load_archive(other, io.BytesIO(data), "two").tags == ("docker.io/me/one:v1", "docker.io/ai/two:latest")


def test_a_loaded_name_leaves_the_model_that_had_it(store: ModelStore) -> None:
    old = load(store, tar_of(upstream_archive(WEIGHTS)), "x")
    new = load(store, tar_of(upstream_archive(WEIGHTS, b'{"config":{}}')), "x")
    assert store.get("x").id == new != old
    assert store.get(old).tags == ()


def test_what_is_there_already_is_not_written_again(store: ModelStore) -> None:
    data = tar_of(upstream_archive(WEIGHTS))
    model_id = load(store, data)
    (path,) = store.files(model_id).weights
    before = path.stat().st_ino
    assert load(store, data) == model_id
    assert path.stat().st_ino == before


def test_what_was_there_and_is_removed_while_the_archive_comes_is_no_fault_of_the_archive(store: ModelStore) -> None:
    model_id = load(store, data := tar_of(upstream_archive(WEIGHTS)))

    def remove(_: int) -> None:
        if store.models():
            store.remove(model_id)

    with pytest.raises(StoreError, match="removed by another process meanwhile; try again"):
        load_archive(store, io.BytesIO(data), report=remove)
    assert load(store, data) == model_id


def test_a_blob_that_goes_between_two_looks_is_no_crash(store: ModelStore, monkeypatch: pytest.MonkeyPatch) -> None:
    load(store, data := tar_of(upstream_archive(WEIGHTS)))
    monkeypatch.setattr(BlobStore, "has", lambda self, digest: self.delete(digest) or True)
    with pytest.raises(StoreError, match="try again"):
        load(store, data)


def test_an_image_layout_without_manifest_json_is_loaded_by_its_index(store: ModelStore) -> None:
    members = upstream_archive(WEIGHTS)
    manifest = members.pop("manifest.json")
    entry = {"digest": digest(manifest), "annotations": {"org.opencontainers.image.ref.name": "ghcr.io/me/x:v3"}}
    members |= {blob_path(manifest): manifest, "index.json": json.dumps({"manifests": [entry]}).encode()}
    assert load_archive(store, io.BytesIO(tar_of(members))).tags == ("ghcr.io/me/x:v3",)
    assert files_of(store, "uploads") == set()


def test_what_is_exported_is_an_archive_that_everyone_reads(store: ModelStore) -> None:
    members = upstream_archive(WEIGHTS)
    load(store, tar_of(members), "me/one:v1")
    with tarfile.open(fileobj=io.BytesIO(exported(store, "me/one:v1"))) as tar:
        found = {info.name: tar.extractfile(info).read() for info in tar}  # type: ignore[union-attr]
    assert members.items() <= found.items()
    assert list(found)[-1] == "manifest.json"  # upstream stops there
    (entry,) = json.loads(found["index.json"])["manifests"]
    assert found["blobs/sha256/" + entry["digest"].removeprefix("sha256:")] == members["manifest.json"]
    assert entry["annotations"]["org.opencontainers.image.ref.name"] == "v1"
    assert json.loads(found["oci-layout"]) == {"imageLayoutVersion": "1.0.0"}


def test_an_export_goes_on_while_the_model_is_removed(store: ModelStore) -> None:
    load(store, tar_of(upstream_archive(WEIGHTS)), "x")
    whole = exported(store, "x")
    with open_archive(store, "x") as archive:
        store.remove("x")
        assert b"".join(archive) == whole


def test_an_export_can_be_read_in_odd_pieces(store: ModelStore) -> None:
    load(store, tar_of(upstream_archive(WEIGHTS)), "x")
    whole = exported(store, "x")
    with open_archive(store, "x") as archive:
        pieces = []
        while piece := archive.read(7):
            pieces.append(piece)
    assert b"".join(pieces) == whole


def test_what_cannot_be_exported(store: ModelStore) -> None:
    with pytest.raises(ModelNotFound):
        open_archive(store, "x")
    load(store, tar_of(upstream_archive(WEIGHTS)), "x")
    store.files("x").weights[0].write_bytes(b"short")
    with pytest.raises(StoreError, match="damaged"):
        open_archive(store, "x")


# --- what is refused -------------------------------------------------------------------------------------------------


def member(kind: bytes = tarfile.REGTYPE, name: str = "blobs/sha256/x", **fields: object) -> bytes:
    info = tarfile.TarInfo(name)
    info.type = kind
    for field, value in fields.items():
        setattr(info, field, value)
    return info.tobuf(tarfile.GNU_FORMAT)


LIST = b'[{"Config":"x","RepoTags":["a"]}]'
FOREIGN = manifest_of(WEIGHTS, CONFIG, config={"mediaType": "image", "digest": digest(CONFIG), "size": len(CONFIG)})
OTHER_SIZE = manifest_of(
    WEIGHTS, CONFIG, layers=[{"mediaType": "x", "digest": digest(WEIGHTS), "size": len(WEIGHTS) + 1}]
)
TWO = {"manifests": [{"digest": digest(b"a")}, {"digest": digest(b"b")}]}


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "no manifest.json"),
        (b"GGUF" + bytes(2000), "not a tar archive"),
        (b"\x1f\x8b" + bytes(2000), "compressed"),
        (tar_of({}), "no manifest.json"),
        (tar_of({"manifest.json": b"{"}), "cannot be understood"),
        (tar_of({"manifest.json": LIST}), "container image"),
        (tar_of({"manifest.json": manifest_of(WEIGHTS, CONFIG)}), "lacks the blob"),
        (tar_of({**upstream_archive(WEIGHTS), "manifest.json": FOREIGN}), "no model that can be loaded"),
        (tar_of({**upstream_archive(WEIGHTS), "manifest.json": OTHER_SIZE}), "another size"),
        (tar_of(upstream_archive(WEIGHTS, b"[]")), "config cannot be understood"),
        (tar_of({"index.json": b"[]"}), "index.json cannot be understood"),
        (tar_of({"index.json": json.dumps(TWO).encode()}), "holds 2 models"),
        (tar_of({blob_path(b"a"): b"b"}), "damaged"),
        (tar_of({"blobs/sha256/../../../x": b""}), "not a safe path"),
        (tar_of({"../manifest.json": b""}), "not a safe path"),
        (tar_of({"blobs/sha256/short": b""}), "not named by a digest"),
        (member(name="/blobs/sha256/" + "0" * 64), "not a safe path"),
        (member(tarfile.SYMTYPE, linkname="x"), "a link or a device"),
        (member(tarfile.LNKTYPE, linkname="x"), "a link or a device"),
        (member(tarfile.FIFOTYPE), "a link or a device"),
        (member(tarfile.CHRTYPE), "a link or a device"),
        (member(tarfile.GNUTYPE_SPARSE), "a link or a device"),
        (member(name="manifest.json", size=1 << 40), r"1099511627776 bytes; 4194304 may be"),
        (member(tarfile.XHDTYPE, size=1 << 40), "1048576 may be"),
        (member(tarfile.GNUTYPE_LONGNAME, size=1 << 40), "1048576 may be"),
        (member(tarfile.XHDTYPE, size=4) + b"x=yz" + bytes(508), "damaged pax header"),
        (member(tarfile.XHDTYPE, size=12) + b"12 size=-12\n" + bytes(500) + member(), "size is no number"),
    ],
)
def test_a_bad_archive_is_refused_and_leaves_nothing(store: ModelStore, data: bytes, reason: str) -> None:
    with pytest.raises(InvalidModelFile, match=reason):
        load(store, data, "x")
    assert store.models() == []
    assert not list(store.root.rglob("*.incomplete"))
    assert not files_of(store, "blobs")


def test_a_blob_that_no_disk_holds_is_refused_before_it_comes(store: ModelStore) -> None:
    with pytest.raises(StoreError, match="disk is full"):
        load(store, member(name="blobs/sha256/" + "0" * 64, size=1 << 62))


def test_a_bad_name_is_told_before_gigabytes_have_come(store: ModelStore) -> None:
    class Untouched(io.BytesIO):
        def read(self, size: int | None = -1) -> bytes:
            raise AssertionError("it was read")

    with pytest.raises(InvalidReference):
        load_archive(store, Untouched(), "a b")


def test_an_archive_that_is_cut_anywhere_is_no_model(store: ModelStore) -> None:
    data = tar_of(upstream_archive(WEIGHTS))
    end = data.index(b"manifest.json") + 512  # the manifest is the last that is needed
    for length in range(0, end, 97):
        with pytest.raises(InvalidModelFile):
            load(store, data[:length], "x")
    assert store.models() == []


def test_flipped_bits_are_refused_or_do_no_harm(store: ModelStore) -> None:
    whole, dice = tar_of(upstream_archive(WEIGHTS)), random.Random(7)
    num_refused = 0
    for _ in range(400):
        data = bytearray(whole)
        for _ in range(dice.randint(1, 3)):
            data[dice.randrange(len(data))] ^= 1 << dice.randrange(8)
        try:
            model_id = load(store, bytes(data))
        except DmrError as error:
            assert isinstance(error, (InvalidModelFile, StoreError))  # noqa: PT017
            num_refused += 1
        else:
            assert store.verify(model_id) == []
    assert num_refused > 50
