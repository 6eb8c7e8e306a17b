"""Flags about threads, the context and batches."""

from __future__ import annotations

from dmr.runtime_flags.flag import Flag, refused, sets, told
from dmr.runtime_flags.kinds import Choice, Switch, Whole

ON_OFF = {"on": "on", "true": "on", "1": "on", "enabled": "on", "off": "off", "false": "off", "0": "off"}
_CHOOSE = frozenset({-1, 0})
_PLACE = "engines use the cores and the priority that the server has: start it with `taskset`, `nice` or a cgroup"
_ONE_POOL = "one pool of threads computes prompts and answers: use `--poll`"

CPU: tuple[Flag, ...] = (
    sets("-t --threads", "engine.num_threads", Whole(-1, 512, none=_CHOOSE), "-1 or 0: the cores that are not in use"),
    sets("-tb --threads-batch", "engine.num_batch_threads", Whole(-1, 512, none=_CHOOSE), "-1 or 0: as `--threads`"),
    sets("--poll", "engine.thread_polling", Whole(0, 100)),
    refused("-C --cpu-mask", _PLACE),
    refused("-Cr --cpu-range", _PLACE),
    refused("--cpu-strict", _PLACE),
    refused("--prio", _PLACE),
    refused("-Cb --cpu-mask-batch", _PLACE),
    refused("-Crb --cpu-range-batch", _PLACE),
    refused("--cpu-strict-batch", _PLACE),
    refused("--prio-batch", _PLACE),
    refused("--poll-batch", _ONE_POOL),
)

CONTEXT: tuple[Flag, ...] = (
    sets("-c --ctx-size", "model.context_size", Whole(0, 1 << 24), "0: as the model was trained"),
    sets("-n --predict --n-predict", "request.max_tokens", Whole(-2), "-1 and -2: no limit"),
    sets("--keep", "request.keep", Whole(-1), "tokens that stay when the context is shifted; -1: as many as can"),
    sets("-b --batch-size", "engine.batch_limit", Whole(1, 1 << 16), "a step has the smaller of this and the next"),
    sets("-ub --ubatch-size", "engine.max_batch_tokens", Whole(1, 1 << 16)),
    told("--swa-full", "windows are kept whole"),
    sets(
        "-fa --flash-attn",
        "attention.flash_attention",
        Choice(("on", "off", "auto"), ON_OFF, default="on"),
        "without a value: on",
    ),
    refused("--perf", "llama.cpp's own timers are not read: answers and /metrics have ours", takes_value=False),
    told("--no-perf", "llama.cpp's own timers are off"),
    sets("-np --parallel", "engine.max_num_seqs", Whole(-1, 256, none=_CHOOSE), "-1: as the server"),
    told("-cb --cont-batching", "batching is continuous"),
    refused(
        "-nocb --no-cont-batching",
        "batching is always continuous; `--parallel 1` computes one answer at a time",
        takes_value=False,
    ),
    sets("--context-shift", "request.context_shift", Switch(True), "answers go on when the context is full"),
    sets("--no-context-shift", "request.context_shift", Switch(False)),
    refused("--warmup", "there is no run without a request; load the model before it is needed", takes_value=False),
    told("--no-warmup", "there is no run without a request"),
    sets("--cache-prompt", "engine.shares_prefixes", Switch(True)),
    sets("--no-cache-prompt", "engine.shares_prefixes", Switch(False), "every prompt is computed from its beginning"),
    refused("--cache-reuse", "a prompt is reused up to its first difference; what follows is computed"),
    sets(
        "-cram --cache-ram",
        "engine.host_cache_bytes",
        Whole(-1, 1 << 24, factor=1 << 20),
        "MiB; -1: a share of the memory that is free",
    ),
    told("-kvu --kv-unified", "all answers share one pool of KV cells"),
    refused("-sps --slot-prompt-similarity", "prefixes are found among all prompts, whatever their slot"),
    sets(
        "--sleep-idle-seconds",
        "model.keep_alive",
        Whole(-1),
        "unloads the model after so many seconds, as `keep_alive`; -1: never",
    ),
)
