"""API keys: who is let in, what a changed, damaged or missing file means, and that no key is kept."""

import hashlib
import stat

import pytest

from deploy.local.api_key import add_key, main
from models.errors import ConfigError, ReleaseError
from models.serving import api_keys
from models.serving.api_keys import ApiKeys, platform_key

OWN = platform_key(b"0123456789abcdef")


@pytest.fixture
def file(tmp_path):
    return tmp_path / "api-keys"


@pytest.fixture
def at_once(monkeypatch):
    monkeypatch.setattr(api_keys, "_KEEP_SECONDS", -1.0)


def test_a_key_lets_in_and_nothing_else_does(file):
    key, other = add_key(file, "crm"), add_key(file, "shop")
    keys = ApiKeys(file, OWN)
    for right in (f"Bearer {key}", f"bearer {key}", f"Bearer {other}", f"Bearer {OWN}"):
        assert keys.admit(right)
    digest = hashlib.sha256(key.encode()).hexdigest()
    for wrong in (None, "", key, f"Basic {key}", f"Bearer {key}x", f"Bearer {key[:-1]}", "Bearer ", f"Bearer {digest}",
                  "Bearer \x00\xff"):
        assert not keys.admit(wrong)


def test_the_file_holds_hashes_that_only_the_owner_reads(file):
    key = add_key(file, "crm")
    assert file.read_text() == f"crm:{hashlib.sha256(key.encode()).hexdigest()}\n"
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert len(key) > 40


@pytest.mark.usefixtures("at_once")
def test_a_key_that_is_added_or_taken_back_counts_from_the_next_second(file):
    first = add_key(file, "crm")
    keys = ApiKeys(file, OWN)
    second = add_key(file, "shop")
    assert keys.admit(f"Bearer {second}")
    file.write_text(file.read_text().splitlines()[1] + "\n")
    assert not keys.admit(f"Bearer {first}")
    assert keys.admit(f"Bearer {second}")


@pytest.mark.usefixtures("at_once")
@pytest.mark.parametrize("damage", ["gone", "crm:short\n", "\xff\xfe"])
def test_a_file_that_cannot_be_used_lets_nobody_in_but_the_platform(file, damage):
    key = add_key(file, "crm")
    keys = ApiKeys(file, OWN)
    if damage == "gone":
        file.unlink()
    else:
        file.write_bytes(damage.encode("latin-1"))
    assert not keys.admit(f"Bearer {key}")
    assert keys.admit(f"Bearer {OWN}")


def test_a_release_does_not_start_on_keys_it_cannot_read(file):
    with pytest.raises(ReleaseError, match=r"cannot read the API keys .*No such file"):
        ApiKeys(file, OWN)
    file.write_text("# keys\n\ncrm:SECRET\n")
    with pytest.raises(ReleaseError, match="line 3 is not name:sha256") as caught:
        ApiKeys(file, OWN)
    assert "SECRET" not in str(caught.value)


def test_a_name_is_given_once_and_must_be_one(file):
    add_key(file, "crm")
    with pytest.raises(ConfigError, match="has one"):
        add_key(file, "crm")
    for name in ("", "a:b", "a b", "x" * 65):
        with pytest.raises(ConfigError, match="cannot make a key for NAME"):
            add_key(file, name)
    assert len(file.read_text().splitlines()) == 1


def test_the_command_prints_the_key_once_and_says_what_is_missing(file, monkeypatch, capsys):
    monkeypatch.delenv("CHURN_API_KEYS", raising=False)
    assert main({"NAME": "crm"}) == 1
    assert "CHURN_API_KEYS is not set" in capsys.readouterr().err
    monkeypatch.setenv("CHURN_API_KEYS", str(file))
    assert main({"NAME": "crm"}) == 0
    assert ApiKeys(file, OWN).admit(f"Bearer {capsys.readouterr().out.strip()}")
