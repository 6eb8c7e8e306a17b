from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dmr.errors import InvalidReference
from dmr.store.reference import Reference, looks_like_id, parse_reference

HEX = "0123456789abcdef" * 4
DIGEST = f"sha256:{HEX}"


@pytest.mark.parametrize(
    ("text", "full"),
    [
        ("gemma3", "docker.io/ai/gemma3:latest"),
        ("gemma3:v1", "docker.io/ai/gemma3:v1"),
        ("myorg/model", "docker.io/myorg/model:latest"),
        ("MyModel", "docker.io/ai/mymodel:latest"),
        ("MyOrg/Model:Q4_K_M", "docker.io/myorg/model:Q4_K_M"),
        ("  gemma3\n", "docker.io/ai/gemma3:latest"),
        ("abc123", "docker.io/ai/abc123:latest"),
        ("1234567890ab", "docker.io/ai/1234567890ab:latest"),
        ("model:", "docker.io/ai/model:latest"),
        ("qwen2.5", "docker.io/ai/qwen2.5:latest"),
        ("registry.example.com/model", "registry.example.com/model:latest"),
        ("registry.example.com/myorg/model:v1", "registry.example.com/myorg/model:v1"),
        ("hf.co/org/model", "huggingface.co/org/model:latest"),
        ("hf.co/Org/Model.v1-GGUF:Q4_K_M", "huggingface.co/org/model.v1-gguf:Q4_K_M"),
        ("huggingface.co/org/model", "huggingface.co/org/model:latest"),
        ("ai/smollm2", "docker.io/ai/smollm2:latest"),
        ("docker.io/ai/smollm2:latest", "docker.io/ai/smollm2:latest"),
        ("index.docker.io/ai/smollm2", "docker.io/ai/smollm2:latest"),
        ("docker.io/ubuntu", "docker.io/library/ubuntu:latest"),
        ("localhost/model", "localhost/model:latest"),
        ("localhost:5000/a/b:c", "localhost:5000/a/b:c"),
        ("127.0.0.1:5000/a", "127.0.0.1:5000/a:latest"),
        ("[::1]:5000/a", "[::1]:5000/a:latest"),
        (f"smollm2@{DIGEST}", f"docker.io/ai/smollm2@{DIGEST}"),
        (f"smollm2:v1@{DIGEST}", f"docker.io/ai/smollm2:v1@{DIGEST}"),
    ],
)
def test_spellings_mean_one_full_name(text: str, full: str) -> None:
    assert str(parse_reference(text)) == full


@pytest.mark.parametrize("registry", ["registry.local:5000", "REGISTRY.local:5000"])
def test_the_default_registry_can_be_another(registry: str) -> None:
    assert str(parse_reference("gemma3", registry)) == "registry.local:5000/ai/gemma3:latest"
    assert str(parse_reference("org/model:x", registry)) == "registry.local:5000/org/model:x"
    assert str(parse_reference("docker.io/org/model", registry)) == "docker.io/org/model:latest"


def test_a_default_registry_that_would_be_read_as_an_organisation_is_refused() -> None:
    with pytest.raises(InvalidReference, match="registry 'myhost'"):
        parse_reference("gemma3", "myhost")


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "empty"),
        (" \t\n", "empty"),
        (":", "no name"),
        (":tag", "no name"),
        ("@", "bad digest"),
        ("a@", "bad digest"),
        ("a@sha256:12", "bad digest"),
        (f"a@sha512:{HEX * 2}", "bad digest"),
        (f"a@{DIGEST}@{DIGEST}", "bad digest"),
        (f"@{DIGEST}", "no name"),
        ("..", "the part '..'"),
        (".", "the part '.'"),
        ("../../etc/passwd", "bad registry"),
        ("ai/../x", "the part '..'"),
        ("a//b", "an empty part"),
        ("/a", "an empty part"),
        ("a/", "an empty part"),
        ("docker.io/", "an empty part"),
        ("a/:tag", "an empty part"),
        ("a_-b", "the part 'a_-b'"),
        ("-a", "the part '-a'"),
        ("a b", "no spaces"),
        ("a\x00b", "ASCII"),
        ("a\nb", "ASCII"),
        ("a\x7f", "ASCII"),
        ("модель", "ASCII"),
        ("\u212aelvin", "ASCII"),  # its lower case is an ASCII k
        ("a:١", "ASCII"),
        ("a:.x", "bad tag"),
        ("a:b:c", "the part 'a:b'"),
        ("a:" + "t" * 129, "bad tag"),
        ("a" * 300, "too long"),
        ("a/" * 2000, "longer than"),
        ("host.example:99999/a", "bad registry"),
        ("host.example:/a", "bad registry"),
        ("https://hf.co/org/model", "leave out"),
        (HEX, "model ID"),
        (DIGEST, "model ID"),
        ("a%2f..", "the part"),
    ],
)
def test_bad_names_are_refused_with_a_reason(text: str, reason: str) -> None:
    with pytest.raises(InvalidReference) as caught:
        parse_reference(text)
    assert reason in caught.value.message
    assert caught.value.message.endswith((".", "'://'."))
    assert len(caught.value.message) < 400


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("ai/smollm2:latest", "smollm2"),
        ("ai/smollm2:v1", "smollm2:v1"),
        ("org/model", "org/model"),
        ("hf.co/org/model:Q8_0", "huggingface.co/org/model:Q8_0"),
        ("docker.io/ai/a/b", "docker.io/ai/a/b:latest"),  # "a/b" would be another model
        ("docker.io/localhost/b", "docker.io/localhost/b:latest"),
        ("1234567890ab", "docker.io/ai/1234567890ab:latest"),  # or it would be taken for an ID
        (f"smollm2@{DIGEST}", f"smollm2@{DIGEST}"),
    ],
)
def test_display_is_as_short_as_it_can_be(text: str, shown: str) -> None:
    assert parse_reference(text).display == shown


@pytest.mark.parametrize("text", ["1234567890ab", HEX, DIGEST])
def test_ids(text: str) -> None:
    assert looks_like_id(text)


@pytest.mark.parametrize(
    "text", ["", "1234567890a", "1234567890abc", "1234567890AB", "g" * 12, DIGEST + "0", HEX + "\n"]
)
def test_not_ids(text: str) -> None:
    assert not looks_like_id(text)


PIECES = st.sampled_from(
    ["a", "B9", "ai", "docker.io", "hf.co", "localhost", "/", "//", ":", ".", "..", "-", "__", "_"]
)
TEXTS = st.one_of(
    st.text(max_size=30),
    st.lists(PIECES, max_size=10).map("".join),
    st.lists(PIECES, max_size=4).map(lambda pieces: "".join(pieces) + "@" + DIGEST),
)


def _parse_or_none(text: str) -> Reference | None:
    try:
        return parse_reference(text)
    except InvalidReference:
        return None


@given(TEXTS)
def test_whatever_parses_is_stable_and_harmless(text: str) -> None:
    reference = _parse_or_none(text)
    if reference is None:
        return
    assert parse_reference(str(reference)) == reference
    assert parse_reference(reference.display) == reference
    parts = f"{reference.registry}/{reference.repository}".split("/")
    assert all(part and not part.startswith(".") for part in parts)
    assert str(reference).isascii()


@given(
    st.from_regex(r"[a-z0-9]{1,8}(?:(?:\.|_|__|-{1,3})[a-z0-9]{1,8}){0,2}", fullmatch=True),
    st.from_regex(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,20}", fullmatch=True),
)
def test_every_well_formed_name_is_accepted(name: str, tag: str) -> None:
    reference = parse_reference(f"org/{name}:{tag}")
    assert (reference.repository, reference.tag) == (f"org/{name}", tag)
