"""Adding a field to a key takes one line in its details and one in its schema."""

from pathlib import Path

from tests.support.source_copy import copy_source, run_script

IN_DETAILS = '    note: str = ""\n'
IN_SCHEMA = (
    '    note = Text(load_default="", validate=validate.Length(max=20, error=LONGEST), '
    'metadata=about("A note.", "Ask Ann"))\n'
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
    copy_source(tmp_path)
    for name, line, next_line in (
        ("shared/eventstore/events.py", IN_DETAILS, "    expires_at: Time | None\n"),
        ("services/keys/web/fields.py", IN_SCHEMA, "    scopes = _Scopes(\n"),
    ):
        file = tmp_path / name
        source = file.read_text()
        assert source.count(next_line) == 1
        file.write_text(source.replace(next_line, line + next_line))
    run_script(tmp_path, USE)
