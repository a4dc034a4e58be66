"""The checks of the store: whether it answers, is durable, and has room."""

import time
from collections.abc import Iterator, Mapping
from typing import Any, cast

from redis import Redis, ResponseError
from redis.exceptions import OutOfMemoryError
from rich.filesize import decimal

from shared.service.checks import Finding, ok, problem, warning
from shared.service.installation import Installation
from shared.store.connections import DURABLE, ReadOnlyStoreError, refuse_read_only
from shared.store.reserve import reserve

_PINGS = 3
_SLOW_MS = 100
_SCARCE_SHARE = 0.8
_OLDEST = {"Redis": 7, "Valkey": 8}
_WRITES = {
    "aof_last_write_status": "its last write to disk",
    "aof_last_bgrewrite_status": "the last rewrite of its log",
    "rdb_last_bgsave_status": "its last snapshot",
}


def check_store(installation: Installation) -> Iterator[Finding]:
    """Checks whether it answers, how fast, and which server it is."""
    if installation.store_away:
        yield installation.store_away
        return
    store = installation.store
    kind, version = _identity(_info(store, "server"))
    took = min(_ping_ms(store) for _ in range(_PINGS))
    found = f"{kind} {version} answers within {took:.1f} ms"
    if int(version.partition(".")[0]) < _OLDEST[kind]:
        say = problem if kind == "Redis" else warning  # an older Valkey is untested, but accepted
        yield say(f"{found}, but is too old", "Run Redis 7.0 or later, or Valkey 8 or later.")
    elif took > _SLOW_MS:
        yield warning(found, "Move it closer: every command and every sign-in waits for it several times.")
    else:
        yield ok(found)


def check_writes(installation: Installation) -> Iterator[Finding]:
    """Checks whether this user may write what Keyledger writes; nothing is written."""
    try:
        refuse_read_only(installation.store)
    except ReadOnlyStoreError as error:
        found, _, advice = str(error).partition(": ")
        yield problem(found, advice[0].upper() + advice[1:])
    except OutOfMemoryError:
        yield ok("it accepts only what its reserve is for, such as revocations; see `memory`")
    except ResponseError as error:
        yield problem(f"it refuses writes: {error}", "See its log, its memory and its replicas.")
    else:
        yield ok("it accepts writes")


def check_durability(installation: Installation) -> Iterator[Finding]:
    """Checks whether its settings are durable, and whether its last writes to disk succeeded."""
    settings = _settings(installation.store, *DURABLE)
    state = _info(installation.store, "persistence")
    wrong = [name for name, value in DURABLE.items() if settings.get(name) != value]
    if wrong:
        say = warning if installation.settings.allow_unsafe_store else problem
        has = ", ".join(f"`{name} {settings.get(name)}`" for name in wrong)
        wanted = ", ".join(f"`{name} {DURABLE[name]}`" for name in wrong)
        yield say(f"it could lose events, because it has {has}", f"Set {wanted} in its configuration.")
    failed = [what for field, what in _WRITES.items() if state.get(field, "ok") != "ok"]
    if failed:
        yield problem(
            f"{' and '.join(failed)} failed",
            "See its log, and whether its disk is full: it may refuse writes until that is fixed.",
        )
    if not wrong and not failed:
        rewriting = "; it is rewriting its log" if state.get("aof_rewrite_in_progress") else ""
        yield ok(f"acknowledged events are on disk{rewriting}")


def check_replicas(installation: Installation) -> Iterator[Finding]:
    """Checks whether as many replicas are connected as the settings require."""
    wanted = installation.settings.ack_replicas
    if installation.embedded and not wanted:
        return
    state = _info(installation.store, "replication")
    if state["role"] != "master":
        yield problem("it is a replica, and accepts no events", "Set KEYLEDGER_REDIS_URL to its primary.")
    replicas = [value for name, value in state.items() if name[:5] == "slave" and isinstance(value, dict)]
    online = sum(replica.get("state") == "online" for replica in replicas)
    if online < wanted:
        yield problem(
            f"{online} of the {wanted} that KEYLEDGER_ACK_REPLICAS requires are connected",
            "Start the others: until then no command is acknowledged.",
        )
    elif wanted:
        yield ok(f"{online} are connected, and {wanted} must have each event")


def check_memory(installation: Installation) -> Iterator[Finding]:
    """Checks how much it uses of its limit, or of the machine's memory."""
    state = _info(installation.store, "memory")
    used = state["used_memory"] - state.get("mem_not_counted_for_evict", 0)
    most, machine = state["maxmemory"], state.get("total_system_memory", 0)
    yield room(used, most or machine, limited=bool(most))
    if not most and not installation.embedded:
        yield warning(
            "it has no limit: when the machine runs out of memory, the system may kill it",
            "Set `maxmemory` below what the machine has; the store then refuses events instead.",
        )


def room(used: int, most: int, *, limited: bool) -> Finding:
    """Describes a store that uses so many bytes."""
    whose = "its limit of" if limited else "the machine's"
    found = f"it uses {decimal(used)} of {whose} {decimal(most)}"
    advice = "Raise `maxmemory`" if limited else "Give the machine more memory"
    if limited and most - used < reserve(most):
        return problem(f"{found}: it accepts no more events", f"{advice} now.")
    if used >= _SCARCE_SHARE * most > 0:
        return warning(found, f"{advice}: the ledger only ever grows.")
    return ok(found)


def _identity(info: Mapping[str, Any]) -> tuple[str, str]:
    if "valkey_version" in info:
        return "Valkey", str(info["valkey_version"])
    return "Redis", str(info["redis_version"])


def _ping_ms(store: Redis) -> float:
    started = time.perf_counter()
    store.ping()
    return (time.perf_counter() - started) * 1000


def _info(store: Redis, section: str) -> dict[str, Any]:
    return store.info(section)


def _settings(store: Redis, *names: str) -> dict[str, str]:
    return cast("dict[str, str]", store.config_get(*names))
