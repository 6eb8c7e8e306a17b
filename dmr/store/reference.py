"""Names of models: `[registry/]repository[:tag][@digest]`, with upstream's defaults and aliases."""

from __future__ import annotations

import re

import msgspec

from dmr.errors import InvalidReference

DEFAULT_REGISTRY = "docker.io"
DEFAULT_NAMESPACE = "ai"
DEFAULT_TAG = "latest"

# The grammar and its limits are those of the distribution project's reference package. \w and \d are ASCII here:
# the text is checked to be ASCII before any pattern sees it.
MAX_REFERENCE_LENGTH = 1024
MAX_NAME_LENGTH = 255
_LABEL = r"[a-z0-9](?:[a-z0-9-]*[a-z0-9])?"
_REGISTRY = re.compile(rf"(?:{_LABEL}(?:\.{_LABEL})*|\[[0-9a-f:]+\])(?::[0-9]{{1,5}})?")
_COMPONENT = re.compile(r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*")
_TAG = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}")
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")
_ID = re.compile(r"[0-9a-f]{12}|(?:sha256:)?[0-9a-f]{64}")
_REGISTRY_ALIASES = {"index.docker.io": "docker.io", "hf.co": "huggingface.co"}

HUB_HOSTS = ("huggingface.co", "hf.co")
REVISION_MARK = "--"  # in tags of the hub's models: what comes after it is a revision, its slashes written so too
_REVISION = re.compile(r"[A-Za-z0-9_.](?:[A-Za-z0-9_./-]*[A-Za-z0-9_.])?")


class Reference(msgspec.Struct, frozen=True):
    """A fully qualified name. `tag` is empty only if `digest` is not; `str()` is the form that the store holds."""

    registry: str
    repository: str
    tag: str
    digest: str = ""

    def __str__(self) -> str:
        tag = f":{self.tag}" if self.tag else ""
        digest = f"@{self.digest}" if self.digest else ""
        return f"{self.registry}/{self.repository}{tag}{digest}"

    @property
    def display(self) -> str:
        """The short form: no default registry, namespace or tag, as long as it still means the same model."""
        text = str(self).removeprefix(f"{DEFAULT_REGISTRY}/")
        text = text.removeprefix(f"{DEFAULT_NAMESPACE}/").removesuffix(f":{DEFAULT_TAG}")
        return text if _means(text, self) else str(self)


def _means(text: str, reference: Reference) -> bool:
    try:
        return not looks_like_id(text) and parse_reference(text) == reference
    except InvalidReference:
        return False


def looks_like_id(text: str) -> bool:
    """Whether text is a model ID as users type it: 12 or 64 lower-case hex digits, or `sha256:` and 64 of them."""
    return _ID.fullmatch(text) is not None


def parse_reference(text: str, default_registry: str = DEFAULT_REGISTRY) -> Reference:
    """The reference that a user's text means, by the rules of upstream's store client.

    Twelve hex digits parse as a name; whether they are an ID is for the store to look up.

    Raises:
        InvalidReference: the text breaks the grammar; the message says where.
    """
    text = fold_revision(_checked_text(text))
    name, at, digest = text.partition("@")
    if at and not _DIGEST.fullmatch(digest):
        raise InvalidReference(
            f"{_quote(text)} has a bad digest: after '@' comes 'sha256:' and 64 lower-case hex digits."
        )
    name, tag = _split_tag(name)
    if tag and not _TAG.fullmatch(tag):
        raise InvalidReference(
            f"{_quote(text)} has a bad tag: up to 128 letters, digits, '_', '.' and '-', not first '.' or '-'."
        )
    registry, repository = _split_registry(name.lower(), text, default_registry.lower())
    return Reference(registry, repository, tag or ("" if digest else DEFAULT_TAG), digest)


def fold_revision(text: str) -> str:
    """`hf.co/organisation/repository:quantization@revision` in the grammar's own means: the tag names the revision too.

    The revision may also come before the colon. `main` is no revision: it is what no revision means.

    Raises:
        InvalidReference
    """
    host, _, rest = text.partition("/")
    name, at, revision = rest.partition("@")
    if host.lower() not in HUB_HOSTS or not at or revision.startswith("sha256:"):
        return text
    name, _, tag = name.partition(":")
    if not tag:
        revision, _, tag = revision.partition(":")
    if not _REVISION.fullmatch(revision) or REVISION_MARK in revision or "//" in revision:
        raise InvalidReference(
            f"{_quote(text)} has a bad revision: after '@' comes a branch, a tag or a commit without '{REVISION_MARK}'."
        )
    folded = f"{host}/{name}:{tag or DEFAULT_TAG}"
    return folded if revision == "main" else f"{folded}{REVISION_MARK}{revision.replace('/', REVISION_MARK)}"


def _quote(text: str) -> str:
    return f"The model name '{text if len(text) <= 100 else text[:100] + '…'}'"


def _checked_text(text: str) -> str:
    if len(text) > MAX_REFERENCE_LENGTH:
        raise InvalidReference(f"The model name is longer than {MAX_REFERENCE_LENGTH} characters.")
    text = text.strip()
    if not text:
        raise InvalidReference("The model name is empty.")
    if not (text.isascii() and text.isprintable()) or " " in text:
        shown = ascii(text)[1:-1]
        raise InvalidReference(f"{_quote(shown)} may hold only ASCII letters, digits and '.-_/:@', and no spaces.")
    if "://" in text:
        raise InvalidReference(f"{_quote(text)} is an address: leave out the part up to '://'.")
    if looks_like_id(text) and len(text) > 12:
        raise InvalidReference(f"{_quote(text)} is a model ID, which cannot be used as a name.")
    return text


def _split_tag(name: str) -> tuple[str, str]:
    colon = name.rfind(":")
    if colon <= name.rfind("/"):
        return name, ""
    return name[:colon], name[colon + 1 :]


def _split_registry(name: str, text: str, default_registry: str) -> tuple[str, str]:
    if not name:
        raise InvalidReference(f"{_quote(text)} has a tag or a digest but no name.")
    first, slash, rest = name.partition("/")
    if not slash:
        registry, repository = default_registry, f"{DEFAULT_NAMESPACE}/{name}"
    elif _is_registry(first):
        registry, repository = first, rest
    else:
        registry, repository = default_registry, name
    registry = _checked_registry(registry, text)
    if registry == DEFAULT_REGISTRY and "/" not in repository:
        repository = f"library/{repository}"  # as every client of that registry does
    _check_repository(repository, text)
    if len(registry) + 1 + len(repository) > MAX_NAME_LENGTH:
        raise InvalidReference(
            f"{_quote(text)} is too long: registry and repository hold {MAX_NAME_LENGTH} characters."
        )
    return registry, repository


def _is_registry(first: str) -> bool:
    return "." in first or ":" in first or first == "localhost"


def _checked_registry(registry: str, text: str) -> str:
    registry = _REGISTRY_ALIASES.get(registry, registry)
    port = registry.rpartition("]")[2].rpartition(":")[2]
    if not _is_registry(registry) or not _REGISTRY.fullmatch(registry) or (port.isdigit() and int(port) > 65535):
        raise InvalidReference(
            f"{_quote(text)} has a bad registry '{registry[:100]}': expected a host and perhaps a port."
        )
    return registry


def _check_repository(repository: str, text: str) -> None:
    for component in repository.split("/"):
        if not _COMPONENT.fullmatch(component):
            what = f"the part '{component[:100]}'" if component else "an empty part"
            raise InvalidReference(
                f"{_quote(text)} has {what}: each part between slashes is letters and digits, "
                "joined by '.', '-', '_' or '__'."
            )
