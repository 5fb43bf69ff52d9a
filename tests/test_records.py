"""Records: what is landed is what is registered, with what makes it anew."""

import json
import shutil
from pathlib import Path

import pytest

from fromnoise import checkpoints, records
from fromnoise._files import sha256
from fromnoise.records import RecordError

ROOT = Path(__file__).resolve().parents[1]
RECORD = {"command": "python x.py", "numbers": [0.5, 1.0], "of": {"a": 1}}


@pytest.fixture
def checkout(tmp_path, monkeypatch):
    """A checkout without records, with a registry of its own."""
    registry = tmp_path / "records.json"
    registry.write_text("{}")
    monkeypatch.setattr(checkpoints, "checkout_folder", lambda: tmp_path / "checkpoints")
    monkeypatch.setattr(records, "_registry_path", lambda: registry)
    monkeypatch.setenv("FROMNOISE_CACHE", str(tmp_path / "cache"))
    return tmp_path


def test_what_is_written_is_read_and_registered(checkout):
    path = records.write("run", RECORD)
    assert path == checkout / "records" / "run.json"
    assert records.load("run") == RECORD == json.loads(path.read_text())
    content = path.read_bytes()
    assert records.registry() == {
        "run": {"file": "run.json", "sha256": sha256(content), "bytes": len(content)}
    }


def test_a_changed_file_is_refused(checkout):
    path = records.write("run", RECORD)
    path.write_text("{}")
    with pytest.raises(RecordError, match=r"is not the registered file.*run its command anew"):
        records.load("run")


def test_a_record_says_what_makes_it_anew(checkout):
    with pytest.raises(ValueError, match="'run' has no entry 'command'"):
        records.write("run", {"numbers": []})


def test_an_unknown_record_lists_the_known_ones(checkout):
    with pytest.raises(RecordError, match="'nix': there are none"):
        records.load("nix")
    records.write("run", RECORD)
    with pytest.raises(RecordError, match="there are run"):
        records.load("nix")


def test_elsewhere_it_comes_from_the_site_once(checkout, served, monkeypatch):
    folder, address = served
    path = records.write("run", RECORD)
    remote = folder / "book" / records.FOLDER
    remote.mkdir(parents=True)
    shutil.copy(path, remote)
    monkeypatch.setenv("FROMNOISE_SITE", address + "book")
    monkeypatch.setattr(checkpoints, "checkout_folder", lambda: None)
    assert records.load("run") == RECORD
    (remote / "run.json").unlink()
    assert records.load("run") == RECORD  # from the cache
    with pytest.raises(RecordError, match="nowhere to write"):
        records.write("run", RECORD)


def test_a_wrong_download_is_refused(checkout, served, monkeypatch):
    folder, address = served
    records.write("run", RECORD)
    remote = folder / records.FOLDER
    remote.mkdir(parents=True)
    (remote / "run.json").write_text("{}")
    monkeypatch.setenv("FROMNOISE_SITE", address)
    monkeypatch.setattr(checkpoints, "checkout_folder", lambda: None)
    with pytest.raises(RecordError, match="set FROMNOISE_SITE"):
        records.load("run")


def test_landed_records_are_registered_small_and_made_by_a_command():
    folder = ROOT / "book" / "_static" / "records"
    known = records.registry()
    assert {p.stem for p in folder.glob("*.json")} == set(known)
    for name, entry in known.items():
        content = (folder / entry["file"]).read_bytes()
        assert sha256(content) == entry["sha256"] and len(content) == entry["bytes"] < 200_000
        assert records.load(name)["command"]


def test_landed_pictures_are_those_of_a_record_and_small():
    folder = ROOT / "book" / "_static" / "records"
    named = {}
    for name in records.registry():
        models = records.load(name).get("models", {})
        for entry in models.values() if name.startswith("quality") else ():
            named[entry["picture"]["file"]] = entry["picture"]
    assert {p.name for p in folder.iterdir() if p.suffix != ".json"} == set(named)
    for file, entry in named.items():
        content = (folder / file).read_bytes()
        assert sha256(content) == entry["sha256"] and len(content) == entry["bytes"] <= 100_000


def test_rounding_keeps_six_digits_and_everything_that_is_no_float():
    record = {"a": [1.23456789, 2], "b": {"c": -1.23456789e-9, "d": "1.23456789", "e": True}}
    expected = {"a": [1.23457, 2], "b": {"c": -1.23457e-9, "d": "1.23456789", "e": True}}
    assert records.rounded(record) == expected
