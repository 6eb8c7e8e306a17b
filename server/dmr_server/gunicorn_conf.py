"""gunicorn's settings and hooks, from dmr's own settings: `gunicorn -c python:dmr_server.gunicorn_conf`."""

from __future__ import annotations

import logging
import os
import resource
import sys
from functools import partial
from pathlib import Path
from typing import Any

from dmr import thread_caches
from dmr.config.keys import read_keys
from dmr.config.reading import read_effective
from dmr.errors import DmrError
from dmr.log_file import SERVICE_LOG, add_log_file, make_log_dir
from dmr_server import free_workers, listening, manager_process, reloading
from dmr_server.announcement import base_url, example, first_model, greeting
from dmr_server.listening import PRIVATE_UMASK, Listening
from dmr_server.manager_process import ManagerProcess
from dmr_server.recording import journal
from dmr_server.reloading import Reloading

thread_caches.allow(os.environ)
try:
    started_with = dict(os.environ)
    effective = read_effective()
    if effective.settings.keys is not None:
        read_keys(effective.settings.keys)
    if effective.settings.log_dir is not None:
        make_log_dir(effective.settings.log_dir)
except DmrError as error:
    raise SystemExit(f"dmr: {error.message}") from None

settings = effective.settings
MAX_FILES = 65536
LOG_LEVELS = {"debug": "debug", "info": "info", "warn": "warning", "warning": "warning", "error": "error"}

bind = Listening(settings).binds
umask = PRIVATE_UMASK if settings.socket is not None else 0
sendfile = not settings.tls.enabled  # it would go around TLS
wsgi_app = "dmr_server.wsgi:app"
worker_class = "dmr_server.thread_worker.Worker"
workers = settings.num_workers
threads = settings.num_threads
worker_connections = max(1000, 2 * settings.num_threads)
timeout = 60  # seconds without a heartbeat; the worker's main thread beats it, however long its answers take
graceful_timeout = max(1, round(settings.grace_period))
keepalive = 75  # seconds; longer than clients' pools keep a connection, so that it is they who close it
control_socket_disable = True
worker_tmp_dir = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None  # heartbeats must not wait for a disk
accesslog = None
errorlog = "-"
loglevel = LOG_LEVELS.get(settings.log_level.lower(), "info")
proc_name = "dmr"


def on_starting(server: Any) -> None:
    """The manager first: without it no worker can serve anything."""
    if settings.log_dir is not None:  # the workers' processes have this one too
        add_log_file(logging.getLogger("gunicorn.error"), settings.log_dir / SERVICE_LOG)
    _allow_files()
    if not settings.core_dumps:  # a crash must not leave prompts behind
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    listening.current = Listening(settings)
    listening.current.prepare()
    manager_process.current = ManagerProcess(
        settings.runtime_dir, settings.grace_period, hang_timeout=settings.engine.hang_timeout
    )
    _keep_settings(server, manager_process.current.runtime_dir)
    manager_process.current.start()
    journal.forget(manager_process.current.runtime_dir)


def _keep_settings(server: Any, folder: Path) -> None:
    reloading.current = Reloading(folder, started_with)
    try:
        reloading.current.begin()
    except OSError as error:
        raise manager_process.StartFailed(f"The runtime folder {folder} cannot be used: {error.strerror}.") from None
    except DmrError as error:
        raise manager_process.StartFailed(error.message) from None
    server.reload = partial(reloading.current.reload, server.reload)


def _allow_files() -> None:
    """As many open files as this user may have, for all of our processes: each request takes several."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = MAX_FILES if hard == resource.RLIM_INFINITY else min(hard, MAX_FILES)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def when_ready(server: Any) -> None:
    here = listening.current
    assert here is not None
    here.open_socket()
    for place, listener in enumerate(server.LISTENERS):
        name = listener.getsockname()
        if isinstance(name, str):
            sys.stderr.write(f"dmr listens on unix://{name}\n")
            continue
        scheme = "https" if here.is_tls(place, name) else "http"
        sys.stderr.write(greeting(*name[:2], scheme=scheme, has_keys=settings.keys is not None))


def post_worker_init(worker: Any) -> None:
    """The first worker can say what there is to try."""
    name = worker.sockets[0].getsockname()
    if worker.age != 1 or isinstance(name, str) or not settings.plain:
        return
    model = first_model(worker.wsgi)
    if model is not None:
        sys.stderr.write(example(base_url(*name[:2]), model))


def child_exit(server: Any, worker: Any) -> None:
    free_workers.current.tell(worker.age, False)
    # One that left after its requests had a successor before it was gone, and needs no other.
    if getattr(worker, "is_leaving", False) and server.num_workers > server.cfg.workers:
        server.num_workers -= 1


def on_exit(server: Any) -> None:
    """The manager last: the workers have ended their requests by now."""
    if manager_process.current is not None:
        manager_process.current.stop()
        journal.forget(manager_process.current.runtime_dir)
