"""pip's failures become sentences that say what to do. The texts are what pip printed in such cases."""

from __future__ import annotations

from pathlib import Path

import pytest

from bootstrap.faults import SetupError, explain

NO_NETWORK = """\
WARNING: Retrying (Retry(total=0, connect=None, read=None, redirect=None, status=None)) after connection broken by \
'NewConnectionError('<pip._vendor.urllib3.connection.HTTPSConnection object at 0x7f>: Failed to establish a new \
connection: [Errno -3] Temporary failure in name resolution')': /simple/torch/
ERROR: Could not find a version that satisfies the requirement torch==2.13.0 (from versions: none)
ERROR: No matching distribution found for torch==2.13.0
"""
NO_BUILD = """\
ERROR: Could not find a version that satisfies the requirement torch>=2.9 (from versions: 2.2.0, 2.2.1, 2.2.2)
ERROR: No matching distribution found for torch>=2.9
"""
NO_SPACE = "ERROR: Could not install packages due to an OSError: [Errno 28] No space left on device\n"
OLD_PYTHON = "ERROR: Package 'shardboard' requires a different Python: 3.10.12 not in '>=3.11'\n"


def explained(output: str, free_bytes: int = 123_000_000) -> SetupError:
    return explain(output, folder=Path("/somewhere"), free_bytes=free_bytes, log=Path("/somewhere/.venv-setup.log"))


@pytest.mark.parametrize(
    ("output", "says", "advises"),
    [
        (NO_NETWORK, "could not be reached", "start the same command again"),
        (NO_BUILD, "offers no torch>=2.9", "A Python of another version"),
        (NO_SPACE, "The disk is full: 0.1 GB are free", "Free some space"),
        (NO_NETWORK + NO_SPACE, "The disk is full", "Free some space"),
        (OLD_PYTHON, "does not run on this Python: 3.10.12", "SHARDBOARD_PYTHON"),
        ("ssl.SSLCertVerificationError: [SSL: CERTIFICATE_VERIFY_FAILED]", "certificate", "PIP_CERT"),
    ],
)
def test_a_known_failure_is_named_with_what_to_do(output: str, says: str, advises: str) -> None:
    error = explained(output)
    assert says in error.message
    assert advises in error.advice


def test_an_unknown_failure_shows_pips_last_words_and_where_the_rest_is() -> None:
    error = explained("\n".join(f"line {number}" for number in range(20)))
    assert "line 19" in error.message
    assert "line 5" not in error.message
    assert ".venv-setup.log" in error.advice
