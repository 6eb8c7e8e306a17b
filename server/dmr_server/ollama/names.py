"""Names of models as users of this API know them: short where that is clear, always with a tag."""

from __future__ import annotations

from dmr.types import ModelRecord

_DEFAULT_REGISTRY = "docker.io/"
_DEFAULT_NAMESPACE = "ai/"
_SHORT_REGISTRIES = {"huggingface.co/": "hf.co/"}


def to_name(tag: str) -> str:
    """A fully qualified tag as it is shown; what is shown can be used in requests."""
    for registry, short in _SHORT_REGISTRIES.items():
        if tag.startswith(registry):
            return short + tag.removeprefix(registry)
    return tag.removeprefix(_DEFAULT_REGISTRY)


def names_of(record: ModelRecord) -> tuple[str, ...]:
    """All names of a model; one without tags is known by its ID."""
    return tuple(with_tag(to_name(tag)) for tag in record.tags) or (record.id,)  # aliases may have none


def name_of(record: ModelRecord, reference: str) -> str:
    """The name of a model that somebody called `reference`: that one, if it is one of its names."""
    asked = with_tag(reference)
    candidates = (asked, _DEFAULT_NAMESPACE + asked, asked.removeprefix(_DEFAULT_REGISTRY))
    names = names_of(record)
    lowered = {name.lower(): name for name in names}
    return next((lowered[each.lower()] for each in candidates if each.lower() in lowered), names[0])


def with_tag(reference: str) -> str:
    """The reference with `:latest`, if it has no tag."""
    return reference if ":" in reference.rpartition("/")[2] else f"{reference}:latest"
