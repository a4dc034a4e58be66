"""Adding a field to a key takes one line in its details and one in its schema."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]

IN_DETAILS = ("shared/eventstore/events.py", "    expires_at: Time | None\n", '    note: str = ""\n')
IN_SCHEMA = (
    "services/keys/web/fields.py",
    "    scopes = _Scopes(\n",
    (
        '    note = Text(load_default="", validate=validate.Length(max=20, error=LONGEST), '
        'metadata=about("A note.", "Ask Ann"))\n'
    ),
)

USE = """
import random
from itertools import count

import fakeredis

from services.keys.commands import KeyCommands, fold
from services.keys.model.key import ChangeKey
from services.keys.read_model.generations import Views
from services.keys.read_model.projector import Projector
from services.keys.web.forms import rules
from services.keys.web.schemas import EventSchema, KeyPatchSchema, KeySchema, NewKeySchema, presented
from shared.eventstore.codec import decode
from shared.eventstore.envelope import Record
from shared.eventstore.ledger import Ledger
from tests.support.principals import REQUEST, now, principal

ids = (f"event-{number}" for number in count(1))
store = fakeredis.FakeRedis()
ledger = Ledger(store)
commands = KeyCommands(ledger, "kl", random.Random(3).randrange, ids.__next__, now)
views = Views(store)

created = commands.create(principal(), NewKeySchema().load({"name": "Web", "note": "first"}), REQUEST).key
assert created.note == "first"
patch = KeyPatchSchema().load({"note": "second"})
assert isinstance(patch, ChangeKey)
commands.change(principal(), created.id, patch, REQUEST)

Projector(ledger, views).catch_up()
(row,) = views.page("default", 10).keys
assert row == fold(ledger.history(f"key:{created.id}"))
answer = KeySchema().dump(presented(row))
assert (answer["name"], answer["note"]) == ("Web", "second")

history = ledger.history(f"key:{created.id}")
assert history[0].data.note == "first"
(change,) = history[1].data.describe().changes
assert (change.field, change.before, change.after) == ("note", "first", "second")
assert EventSchema().dump(history[1])["data"]["after"]["note"] == "second"

assert rules()["note"]["most"] == 20
assert "note" in KeyPatchSchema().validate({"note": "x" * 21})

(stored, *_) = ledger.records(f"key:{created.id}")
earlier = stored.body.replace(b',"note":"first"', b"")
assert earlier != stored.body
assert decode(Record(stored.position, stored.at, earlier)).data.note == "", "an event from before the field"
"""


def test_two_lines_are_enough_to_add_a_text_field_to_a_key(tmp_path: Path) -> None:
    for package in ("services", "shared", "tests"):
        shutil.copytree(ROOT / package, tmp_path / package, ignore=shutil.ignore_patterns("__pycache__"))
    for name, before, line in (IN_DETAILS, IN_SCHEMA):
        file = tmp_path / name
        head, found, tail = file.read_text().partition(before)
        assert found
        file.write_text(head + found + line + tail if name == IN_DETAILS[0] else head + line + found + tail)
    done = subprocess.run(
        [sys.executable, "-c", USE],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
