"""gunicorn's settings and hooks, from dmr's own settings: `gunicorn -c python:dmr_server.gunicorn_conf`."""

from __future__ import annotations

import atexit
import logging
import os
import resource
import sys
from pathlib import Path
from typing import Any

from dmr.config.keeping import keep_file
from dmr.config.reading import read_effective
from dmr.errors import DmrError
from dmr.log_file import SERVICE_LOG, add_log_file, make_log_dir
from dmr_server import manager_process
from dmr_server.announcement import base_url, example, first_model, greeting
from dmr_server.manager_process import ManagerProcess
from dmr_server.recording import journal

try:
    effective = read_effective()
    if effective.settings.log_dir is not None:
        make_log_dir(effective.settings.log_dir)
except DmrError as error:
    raise SystemExit(f"dmr: {error.message}") from None

settings = effective.settings
MAX_FILES = 65536
LOG_LEVELS = {"debug": "debug", "info": "info", "warn": "warning", "warning": "warning", "error": "error"}

bind = f"[{settings.host}]:{settings.port}" if ":" in settings.host else f"{settings.host}:{settings.port}"
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
    manager_process.current = ManagerProcess(settings.runtime_dir, settings.grace_period)
    _keep_settings(manager_process.current.runtime_dir)
    manager_process.current.start()
    journal.forget(manager_process.current.runtime_dir)


def _keep_settings(folder: Path) -> None:
    try:
        copy = keep_file(effective.file, folder, os.environ)
    except OSError as error:
        raise manager_process.StartFailed(f"The runtime folder {folder} cannot be used: {error.strerror}.") from None
    if copy is not None:
        atexit.register(_forget, copy, os.getpid())


def _forget(copy: Path, owner: int) -> None:
    if os.getpid() == owner:
        copy.unlink(missing_ok=True)


def _allow_files() -> None:
    """As many open files as this user may have, for all of our processes: each request takes several."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = MAX_FILES if hard == resource.RLIM_INFINITY else min(hard, MAX_FILES)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def when_ready(server: Any) -> None:
    for listener in server.LISTENERS:
        sys.stderr.write(greeting(*listener.getsockname()[:2]))


def post_worker_init(worker: Any) -> None:
    """The first worker can say what there is to try."""
    if worker.age != 1:
        return
    model = first_model(worker.wsgi)
    if model is not None:
        sys.stderr.write(example(base_url(*worker.sockets[0].getsockname()[:2]), model))


def child_exit(server: Any, worker: Any) -> None:
    """A worker that left after its requests had a successor before it was gone, and needs no other."""
    if getattr(worker, "is_leaving", False) and server.num_workers > server.cfg.workers:
        server.num_workers -= 1


def on_exit(server: Any) -> None:
    """The manager last: the workers have ended their requests by now."""
    if manager_process.current is not None:
        manager_process.current.stop()
        journal.forget(manager_process.current.runtime_dir)
