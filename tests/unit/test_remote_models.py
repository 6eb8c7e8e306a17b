"""A look at what a registry has, with the server's settings and credentials."""

from __future__ import annotations

import json
from base64 import b64encode
from pathlib import Path

import pytest
from loopback_registry import LoopbackRegistry, running
from transfer_models import NOBODY, whole_model

from dmr.config import RegistrySettings
from dmr.errors import RemoteModelNotFound, Unauthorized
from dmr.service.remote_models import RemoteModels
from dmr.store.store import ModelStore
from dmr.store.transfers import push


def test_a_model_is_looked_up_where_the_settings_say_and_as_the_servers_user(tmp_path: Path) -> None:
    auth = b64encode(b"me:secret").decode()
    store = ModelStore(tmp_path / "store")
    whole_model(store, tmp_path, "test/model")
    with running(LoopbackRegistry()) as registry:
        push(store, "test/model", f"{registry.host}/ai/model", NOBODY, lambda _: None)
        registry.user = "me:secret"
        (tmp_path / "config.json").write_text(json.dumps({"auths": {registry.host: {"auth": auth}}}))
        settings = RegistrySettings(default=registry.host)
        models = RemoteModels(settings, {"DOCKER_CONFIG": str(tmp_path)})
        found, here = models.get("model"), store.get("test/model")
        assert (found.id, found.config, found.size, found.tags) == (here.id, here.config, here.size, ())
        assert found.has_mmproj
        with pytest.raises(RemoteModelNotFound):
            models.get("model:v9")
        with pytest.raises(Unauthorized):
            RemoteModels(settings, {}).get("model")
