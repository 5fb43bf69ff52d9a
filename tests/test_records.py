"""Records: read and written in the checkout, with what makes them anew."""

import json

import pytest

from fromnoise import checkpoints, records


@pytest.fixture
def checkout(tmp_path, monkeypatch):
    monkeypatch.setattr(checkpoints, "checkout_folder", lambda: tmp_path / "checkpoints")
    return tmp_path


def test_what_is_written_is_read(checkout):
    record = {"command": "python x.py", "numbers": [0.5, 1.0], "of": {"a": 1}}
    path = records.write("run", record)
    assert path == checkout / "records" / "run.json"
    assert records.load("run") == record == json.loads(path.read_text())


def test_a_record_says_what_makes_it_anew(checkout):
    with pytest.raises(ValueError, match="'run' has no entry 'command'"):
        records.write("run", {"numbers": []})


def test_an_unknown_record_lists_the_known_ones(checkout):
    with pytest.raises(FileNotFoundError, match="'nix': there are none"):
        records.load("nix")
    records.write("run", {"command": "x"})
    with pytest.raises(FileNotFoundError, match="there are run"):
        records.load("nix")


def test_outside_a_checkout_it_says_so(monkeypatch):
    monkeypatch.setattr(checkpoints, "checkout_folder", lambda: None)
    with pytest.raises(FileNotFoundError, match="runs from no checkout"):
        records.load("ablation")
