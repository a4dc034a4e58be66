"""The doctor's checks of a store and its content, tested with real faults."""

import os
import re
import signal
import subprocess
import time
from base64 import b64encode
from collections.abc import Iterator
from contextlib import ExitStack, closing
from pathlib import Path
from zlib import compress

import pytest
from redis import Redis

from services.audit.monitoring.queue import check_queue, check_worker
from services.doctor.access import check_access
from services.doctor.examination import _made, all_checks, examine
from services.doctor.ledger import check_clock, check_ledger
from services.doctor.store import check_durability, check_memory, check_replicas, check_store, room
from services.keys.monitoring import check_expiry_times, check_views
from services.keys.read_model.generations import Views
from services.keys.read_model.projector import Projector
from services.runtime.manifests import MANIFESTS
from shared.clock import LAST_TIME, now_ms, rfc3339
from shared.eventstore.ledger import LOG
from shared.service.checks import Level, skipped
from shared.service.installation import Installation
from shared.store.connections import DURABLE
from shared.store.embedded import EmbeddedServer
from tests.support.examinations import configured, examined, expect, expect_ok
from tests.support.fake_server import FakeServer
from tests.support.histories import created, grow, record
from tests.support.processes import free_port, until
from tests.support.stores import everything

CANARY = "c4nary"  # a secret that nobody may be told
MIB = 1024**2
WORKER = "rq:worker:one"


@pytest.fixture
def installation(store: Redis, valkey_url: str, tmp_path: Path) -> Iterator[Installation]:
    """An installation with an empty store."""
    assert not store.dbsize()
    with examined(tmp_path / "data", redis_url=valkey_url) as opened:
        yield opened


@pytest.fixture
def embedded(tmp_path: Path) -> EmbeddedServer:
    """An embedded store that isn't running yet."""
    return EmbeddedServer.in_directory(tmp_path / "data")


def project(installation: Installation) -> None:
    Projector(installation.shared.ledger, Views(installation.store)).catch_up()


def test_a_healthy_store_is_reported_with_its_version(installation: Installation) -> None:
    expect_ok(check_store(installation), "Valkey 9.")
    expect_ok(check_durability(installation), "acknowledged events are on disk")
    expect_ok(check_access(installation), "only from this machine")


def test_redis_is_distinguished_from_valkey(redis_url: str, tmp_path: Path) -> None:
    with examined(tmp_path, redis_url=redis_url) as installation:
        expect_ok(check_store(installation), "Redis 7.")


@pytest.mark.parametrize(
    ("info", "level", "server"),
    [
        ("redis_version:6.2.14", Level.PROBLEM, "Redis 6.2.14"),
        ("redis_version:7.2.4\r\nvalkey_version:7.2.6", Level.WARNING, "Valkey 7.2.6"),
    ],
)
def test_an_outdated_store_is_reported(info: str, level: Level, server: str, tmp_path: Path) -> None:
    reply = f"# Server\r\n{info}\r\n"
    fake = FakeServer(tmp_path / "old", INFO=f"${len(reply)}\r\n{reply}".encode(), CONFIG=b"*0")
    with closing(fake), examined(tmp_path, redis_url=f"unix://{tmp_path}/old") as installation:
        expect(check_store(installation), level, f"{server} answers", "Run Redis 7.0 or later")


def test_a_running_embedded_store_is_checked_and_left_running(embedded: EmbeddedServer) -> None:
    with embedded.joined():
        with examined(embedded.data_dir) as installation:
            expect_ok(check_store(installation), "Valkey 9.")
            expect_ok(check_access(installation), "through a socket")
        assert embedded.is_ready()
    with examined(embedded.data_dir) as installation:
        assert [*check_store(installation)] == [skipped("not running; `keyledger up` starts it")]


def test_an_embedded_store_stays_up_until_the_doctor_has_checked_it(embedded: EmbeddedServer) -> None:
    with ExitStack() as command:
        command.enter_context(embedded.joined())
        with examined(embedded.data_dir) as installation:
            command.close()
            expect_ok(check_store(installation), "Valkey 9.")
    assert not embedded.is_taken()


def test_a_locked_embedded_store_that_does_not_answer_is_reported(embedded: EmbeddedServer) -> None:
    with embedded.held(), examined(embedded.data_dir) as installation:
        expect(check_store(installation), Level.PROBLEM, "does not answer", "See what `keyledger up` prints")


def test_an_embedded_store_that_hangs_is_reported(
    embedded: EmbeddedServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shared.service.installation._START_S", 0.1)
    with embedded.held() as lock, subprocess.Popen(embedded.command, pass_fds=[lock]) as server:
        until(embedded.is_ready)
        os.kill(server.pid, signal.SIGSTOP)
        try:
            with examined(embedded.data_dir) as installation:
                expect(check_store(installation), Level.PROBLEM, "Timeout", "`keyledger up` prints")
        finally:
            os.kill(server.pid, signal.SIGCONT)
            server.terminate()


@pytest.mark.parametrize(
    ("setting", "value"),
    [("appendfsync", "everysec"), ("no-appendfsync-on-rewrite", "yes"), ("maxmemory-policy", "allkeys-lru")],
)
def test_an_unsafe_store_setting_is_reported_with_the_line_to_change(
    installation: Installation, store: Redis, setting: str, value: str
) -> None:
    with configured(store, **{setting: value}):
        findings = [*check_durability(installation)]
        expect(findings, Level.PROBLEM, f"`{setting} {value}`", f"Set `{setting} {DURABLE[setting]}`")
        expect_ok(check_store(installation), "Valkey")  # all else is looked at nevertheless


def test_an_unsafe_store_is_only_a_warning_if_it_is_allowed(
    store: Redis, valkey_url: str, tmp_path: Path
) -> None:
    with (
        configured(store, appendfsync="no"),
        examined(tmp_path, redis_url=valkey_url, allow_unsafe_store=True) as installation,
    ):
        expect(check_durability(installation), Level.WARNING, "`appendfsync no`", "`appendfsync always`")


def test_failed_writes_to_disk_are_reported(tmp_path: Path) -> None:
    info = "# Persistence\r\naof_last_write_status:err\r\nrdb_last_bgsave_status:err\r\n"
    words = [word for pair in DURABLE.items() for word in pair]
    config = "\r\n".join([f"*{len(words)}", *(f"${len(word)}\r\n{word}" for word in words)])
    replies = {"INFO": f"${len(info)}\r\n{info}".encode(), "CONFIG": config.encode()}
    server = FakeServer(tmp_path / "full", **replies)
    with closing(server), examined(tmp_path, redis_url=f"unix://{tmp_path}/full") as installation:
        found = "its last write to disk and its last snapshot failed"
        expect(check_durability(installation), Level.PROBLEM, found, "disk is full")


def test_a_store_user_without_permission_to_read_settings_is_reported(
    store: Redis, valkey_url: str, tmp_path: Path
) -> None:
    store.acl_setuser("shy", enabled=True, nopass=True, commands=["+@all", "-config"], keys=["*"])
    url = valkey_url.replace("unix://", "unix://shy:any@")
    with examined(tmp_path, redis_url=url) as installation:
        findings = [*_made(check_durability, installation)]
    store.acl_deluser("shy")
    expect(findings, Level.PROBLEM, "no permissions to run the 'config|get' command", "Fix that")


def test_a_store_open_to_the_network_without_a_password_is_reported(
    installation: Installation, store: Redis
) -> None:
    port = str(free_port())
    with configured(store, bind="* -::*", protected_mode="no", port=port):
        expect(
            check_access(installation),
            Level.WARNING,
            "reach it at *, ::* may use it without",
            "`requirepass`",
        )
    with configured(store, bind="127.0.0.1", protected_mode="no", port=port):
        expect_ok(check_access(installation), "only from this machine")


def test_a_remote_store_must_require_a_password(
    store: Redis, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("services.doctor.access.is_loopback", lambda _: False)
    port = free_port()
    with configured(store, port=str(port)):
        with examined(tmp_path, redis_url=f"redis://127.0.0.1:{port}") as open_to_all:
            expect(
                check_access(open_to_all), Level.WARNING, "at 127.0.0.1 may use it without", "`requirepass`"
            )
        with (
            configured(store, requirepass=CANARY),
            examined(tmp_path, redis_url=f"redis://:{CANARY}@127.0.0.1:{port}") as closed,
        ):
            expect_ok(check_access(closed), "it requires authentication")


def test_missing_replicas_and_a_store_that_is_a_replica_are_reported(
    store: Redis, valkey_url: str, tmp_path: Path, installation: Installation
) -> None:
    assert not [*check_replicas(installation)]
    with examined(tmp_path, redis_url=valkey_url, ack_replicas=2) as demanding:
        expect(check_replicas(demanding), Level.PROBLEM, "0 of the 2 that", "Start the others")
    store.replicaof("127.0.0.1", str(free_port()))
    try:
        expect(check_replicas(installation), Level.PROBLEM, "it is a replica", "to its primary")
    finally:
        store.replicaof("NO", "ONE")


def test_unlimited_memory_and_exhausted_memory_are_reported(installation: Installation, store: Redis) -> None:
    expect(check_memory(installation), Level.WARNING, "it has no limit", "Set `maxmemory`")
    with configured(store, maxmemory="1gb"):
        expect_ok(check_memory(installation), "of its limit of 1.1 GB")
    with configured(store, maxmemory="1"):
        expect(
            check_memory(installation), Level.PROBLEM, "it accepts no more events", "Raise `maxmemory` now"
        )


@pytest.mark.parametrize(
    ("used", "limited", "level"),
    [
        (79 * MIB, True, Level.OK),
        (80 * MIB, True, Level.WARNING),
        (100 * MIB - 6_600_000, True, Level.WARNING),
        (100 * MIB - 6_500_000, True, Level.PROBLEM),
        (79 * MIB, False, Level.OK),
        (100 * MIB, False, Level.WARNING),
    ],
)
def test_low_memory_is_reported_before_it_runs_out(used: int, limited: bool, level: Level) -> None:
    found = room(used, 100 * MIB, limited=limited)
    assert (found.level, "the machine's" in found.found) == (level, not limited)
    assert level is Level.OK or ("Raise `maxmemory`" if limited else "Give the machine") in str(found.advice)


def test_a_ledger_without_gaps_passes(installation: Installation) -> None:
    expect_ok(check_ledger(installation), "empty")
    grow(installation.shared.ledger, 3)
    expect_ok(check_ledger(installation), "ends at position 3, and no event is missing")


def test_a_gap_in_the_ledger_is_reported(installation: Installation, store: Redis) -> None:
    grow(installation.shared.ledger, 3)
    store.xdel(LOG, "0-2")
    expect(check_ledger(installation), Level.PROBLEM, "ends at position 3 and has 2 events", "audit check")


def test_an_unreadable_ledger_is_reported_and_the_other_checks_run(
    store: Redis, valkey_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.set(LOG, CANARY)
    monkeypatch.setenv("KEYLEDGER_REDIS_URL", valkey_url)
    monkeypatch.setenv("KEYLEDGER_SECRET_KEY", "s" * 32)
    monkeypatch.setenv("KEYLEDGER_DATA_DIR", str(tmp_path / "data"))
    told = [*examine(all_checks(MANIFESTS))]
    expect(
        (each.finding for each in told if each.check == "ledger"),
        Level.PROBLEM,
        "WRONGTYPE",
        "run this again",
    )
    assert told[-1].check == "clock"
    store.delete(LOG)
    store.xadd(LOG, {CANARY: CANARY})
    told = [*examine(all_checks(MANIFESTS))]
    expect(
        (each.finding for each in told if each.check == "ledger"),
        Level.PROBLEM,
        "(ValueError)",
        "belong together",
    )
    assert CANARY not in str(told)


def test_views_that_keep_up_pass(installation: Installation) -> None:
    grow(installation.shared.ledger, 2)
    expect_ok(check_views(installation), "at position 0 of 2")
    installation.shared.ledger.fill(2, [record(3, at=now_ms() - 60_000)])
    expect_ok(check_views(installation), "at position 0 of 3")


def test_views_without_a_running_projector_are_reported(installation: Installation) -> None:
    installation.shared.ledger.fill(0, [record(1, at=now_ms() - 60_000), record(2, at=now_ms())])
    told = expect(check_views(installation), Level.PROBLEM, "at position 0 of 2, ", "`keyledger projector`")
    assert re.search(r", 6\d s behind$", told)


def test_a_parked_key_is_reported_with_the_reason(installation: Installation) -> None:
    grow(installation.shared.ledger, 1, subject="key:000000000001")
    project(installation)
    expect(check_views(installation), Level.PROBLEM, "1 parked, the first 000000000001: ", "projector retry")


def test_the_views_check_detects_a_ledger_that_went_backwards(
    installation: Installation, store: Redis
) -> None:
    grow(installation.shared.ledger, 1, subject="key:000000000001", payloads=[created()])
    project(installation)
    store.delete(LOG, "{kl:0}:subject:key:000000000001")
    grow(installation.shared.ledger, 1, subject="key:000000000001", payloads=[created()])
    expect(check_views(installation), Level.PROBLEM, "went backwards", "docs/runbooks.md")


def test_failed_jobs_are_reported_with_the_latest_error(installation: Installation, store: Redis) -> None:
    expect_ok(check_queue(installation), "0 waiting, none failed")
    store.zadd("rq:failed:audit", {"job": time.time() + 3600})
    store.xadd("rq:results:job", {"exc_string": b64encode(compress(b"the disk is full."))})
    expect(check_queue(installation), Level.WARNING, "the newest because: the disk is full", "audit status")


def test_more_than_one_waiting_job_is_reported(installation: Installation, store: Redis) -> None:
    store.rpush("rq:queue:audit", "one")
    expect_ok(check_queue(installation), "1 waiting")
    store.rpush("rq:queue:audit", "two")
    expect(check_queue(installation), Level.WARNING, "2 jobs wait", "audit worker")


def test_a_missing_or_silent_worker_is_reported(installation: Installation, store: Redis) -> None:
    expect(
        check_worker(installation), Level.PROBLEM, "no audit worker runs", "Start `keyledger audit worker`"
    )
    store.sadd("rq:workers:audit", WORKER, "rq:worker:gone")
    store.hset(WORKER, "last_heartbeat", rfc3339(now_ms() - 70_000))
    advice = "`keyledger audit worker` prints"
    told = expect(check_worker(installation), Level.PROBLEM, "silent for ", advice)
    assert re.search(r"silent for 7\d s", told)
    store.hset(WORKER, "last_heartbeat", rfc3339(now_ms() - 10_000))
    told = expect(check_worker(installation), Level.OK, "last heartbeat ")
    assert re.search(r"last heartbeat 1\d s ago", told)
    assert store.smembers("rq:workers:audit") == {WORKER.encode(), b"rq:worker:gone"}


def test_synchronized_clocks_pass(installation: Installation) -> None:
    grow(installation.shared.ledger, 1)
    expect_ok(check_clock(installation), "the store's and this machine's are within")


def test_a_clock_behind_the_newest_event_is_reported(installation: Installation) -> None:
    installation.shared.ledger.fill(0, [record(1, at=now_ms() + 60_500)])
    expect(check_clock(installation), Level.PROBLEM, "60 s ahead of this clock", "NTP")


def test_skew_of_the_stores_clock_is_reported(
    installation: Installation, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shared.service.clocks.time.time", time.monotonic)
    expect(check_clock(installation), Level.PROBLEM, "ahead of this machine's", "NTP")


def test_the_checks_write_nothing(
    store: Redis, valkey_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with examined(tmp_path, redis_url=valkey_url) as installation:
        grow(installation.shared.ledger, 3)
        project(installation)
    store.sadd("rq:workers", "rq:worker:gone")
    store.sadd("rq:workers:audit", "rq:worker:gone")
    store.zadd("rq:failed:audit", {"job": 1})
    monkeypatch.setenv("KEYLEDGER_REDIS_URL", valkey_url)
    monkeypatch.setenv("KEYLEDGER_SECRET_KEY", "s" * 32)
    monkeypatch.setenv("KEYLEDGER_DATA_DIR", str(tmp_path / "data"))
    before, changes = sorted(everything(store)), store.info("persistence")["rdb_changes_since_last_save"]
    assert {each.finding.level for each in examine(all_checks(MANIFESTS))} >= {Level.OK}
    assert store.info("persistence")["rdb_changes_since_last_save"] == changes
    assert sorted(everything(store)) == before
    assert not (tmp_path / "data").exists()


def test_keys_with_an_expiry_after_the_year_9999_are_listed(installation: Installation) -> None:
    expiries = {"key:000000000001": LAST_TIME, "key:000000000002": 2**63, "key:000000000003": LAST_TIME + 1}
    for subject, at in expiries.items():
        grow(installation.shared.ledger, 1, subject=subject, payloads=[created(expires_at=at)])
    project(installation)
    found = expect(check_expiry_times(installation), Level.WARNING, "an expiry outside", "Set another")
    assert "000000000001" not in found
    assert "000000000002" in found
    assert "000000000003" in found
