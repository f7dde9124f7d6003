"""Key files, trusted controllers and invitations."""

from __future__ import annotations

import base64
import hashlib
import os
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from worker_agent.wire.keys import Invitation, KeyPair, KeyProblem, TrustedControllers, check_key

INVITATION = Invitation.make("tcp://[fe80::1]:7601", KeyPair.make().public)
TEXT = INVITATION.encode()


def test_a_key_pair_is_made_once_and_stays(tmp_path: Path) -> None:
    first = KeyPair.load_or_create(tmp_path / "new")
    again = KeyPair.load_or_create(tmp_path / "new")
    assert again == first
    assert (tmp_path / "new" / "agent.pub").read_text().strip() == first.public
    assert sorted(path.name for path in (tmp_path / "new").iterdir()) == ["agent.key", "agent.pub"]
    assert first.secret not in repr(first)


@pytest.mark.skipif(os.name != "posix", reason="only POSIX systems have file modes")
def test_nobody_else_may_read_the_secret_half(tmp_path: Path) -> None:
    KeyPair.load_or_create(tmp_path)
    assert (tmp_path / "agent.key").stat().st_mode & 0o777 == 0o600
    (tmp_path / "agent.key").chmod(0o644)
    KeyPair.load_or_create(tmp_path)
    assert (tmp_path / "agent.key").stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("content", ["", "short", "\N{SNOWMAN}" * 40, "~" * 40, "#" * 40])
def test_a_damaged_key_file_is_named_and_left_alone(tmp_path: Path, content: str) -> None:
    path = tmp_path / "agent.key"
    path.write_text(content, "utf-8")
    with pytest.raises(KeyProblem, match=r"agent\.key.*cannot be read as a key.*backup"):
        KeyPair.load_or_create(tmp_path)
    assert path.read_text("utf-8") == content


def test_a_trusted_controller_is_a_file_that_can_come_and_go(tmp_path: Path) -> None:
    here, there, third = KeyPair.make().public, KeyPair.make().public, KeyPair.make().public
    controllers = TrustedControllers(tmp_path)
    controllers.add(here)
    assert here in controllers
    assert here in TrustedControllers(tmp_path)
    (tmp_path / "other.pub").write_text(f"{there}\n# the laptop\n")
    (tmp_path / "broken.pub").write_text(f"{third}x\n")
    assert there not in controllers
    controllers.refresh()
    assert there in controllers
    assert third not in controllers
    for path in tmp_path.iterdir():
        path.unlink()
    controllers.refresh()
    assert here not in controllers


def test_a_key_may_begin_with_the_sign_of_a_comment(tmp_path: Path) -> None:
    key = "#" + KeyPair.make().public[1:4] + "0" + KeyPair.make().public[5:]
    key = next(k for k in (first + key[1:] for first in "#0") if _is_key(k))
    controllers = TrustedControllers(tmp_path)
    controllers.add(key)
    assert key in TrustedControllers(tmp_path)


def test_trust_that_was_vouched_for_ends_with_the_word(tmp_path: Path) -> None:
    key = KeyPair.make().public
    controllers = TrustedControllers(tmp_path)
    controllers.vouch(key)
    assert key in controllers
    assert list(tmp_path.iterdir()) == []
    controllers.disavow(key)
    assert key not in controllers


def test_an_invitation_survives_copying() -> None:
    assert Invitation.decode(TEXT) == INVITATION
    assert Invitation.decode(f"  {TEXT[:30].lower()}\n  {TEXT[30:]}\n") == INVITATION
    assert TEXT.isalnum()
    assert INVITATION.token not in repr(INVITATION)


@given(st.integers(3, len(TEXT) - 1), st.sampled_from("ABCDEFGHIJKLMNOPQRSTUVWXYZ234567890-\N{SNOWMAN}"))
def test_one_wrong_letter_in_an_invitation_is_found(place: int, letter: str) -> None:
    wrong = TEXT[:place] + letter + TEXT[place + 1 :]
    # the last letter of Base32 has bits that stand for nothing
    if wrong == TEXT or place == len(TEXT) - 1:
        return
    with pytest.raises(KeyProblem, match="incomplete or mistyped"):
        Invitation.decode(wrong)


@given(st.integers(3, len(TEXT) - 2))
def test_a_cut_invitation_is_found(length: int) -> None:
    with pytest.raises(KeyProblem, match="incomplete or mistyped"):
        Invitation.decode(TEXT[:length])


@given(st.text(max_size=200))
def test_no_text_makes_decoding_an_invitation_fail_otherwise(text: str) -> None:
    for candidate in (text, f"SB1{text}"):
        with pytest.raises(KeyProblem):
            Invitation.decode(candidate)


def test_an_invitation_without_a_key_is_refused_though_its_checksum_is_right() -> None:
    content = msgspec.msgpack.encode(("tcp://127.0.0.1:1", b"short", "token"))
    text = base64.b32encode(content + hashlib.sha256(content).digest()[:4]).decode().rstrip("=")
    with pytest.raises(KeyProblem, match="names no key"):
        Invitation.decode(f"SB1{text}")


def test_an_invitation_of_another_version_says_so() -> None:
    with pytest.raises(KeyProblem, match="another version"):
        Invitation.decode("SB2" + TEXT[3:])
    with pytest.raises(KeyProblem, match="no Shardboard invitation"):
        Invitation.decode("hello")


def _is_key(text: str) -> bool:
    try:
        return check_key(text) == text
    except KeyProblem:
        return False
