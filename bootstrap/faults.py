"""What can go wrong while setting up, as sentences for the user, and how pip's own words are read."""

from __future__ import annotations

import re
from pathlib import Path

NO_SPACE = re.compile(r"No space left on device|\[Errno 28\]|\[WinError 112\]|Disk quota exceeded", re.IGNORECASE)
NO_CERTIFICATE = re.compile(r"CERTIFICATE_VERIFY_FAILED|SSLCertVerificationError|SSLError", re.IGNORECASE)
NO_NETWORK = re.compile(
    r"NewConnectionError|Failed to establish a new connection|NameResolutionError|getaddrinfo failed"
    r"|Temporary failure in name resolution|Max retries exceeded|ConnectTimeoutError|ReadTimeoutError|Read timed out"
    r"|ProxyError|Network is unreachable|Connection refused|Connection broken|Connection reset|RemoteDisconnected",
    re.IGNORECASE,
)
NO_VERSION = re.compile(r"No matching distribution found for (\S+)")
BAD_PYTHON = re.compile(r"requires a different Python: (.+)")


class SetupError(Exception):
    """The set-up cannot go on: what failed and why, and what to do about it."""

    def __init__(self, message: str, advice: str) -> None:
        super().__init__(f"{message}\n{advice}")
        self.message = message
        self.advice = advice


def cannot_write(error: OSError, root: Path) -> SetupError:
    """The project lies where this user may not write, or on a disk that nobody may write to."""
    return SetupError(
        f"The environment has to be made or brought up to date in {root}, and that cannot be written to: {error}.",
        "Let the user that it belongs to start it once (then it starts for everybody who may read it), "
        "or copy the folder to a place of yours and start it there.",
    )


def explain(output: str, *, folder: Path, free_bytes: int, log: Path) -> SetupError:
    """Why pip failed, from what it printed.

    A full disk comes first, since it can make any other step fail; and a lost network before a missing version,
    because pip, after it gave up connecting, ends with "no matching distribution" too.
    """
    if NO_SPACE.search(output):
        return SetupError(
            f"The disk is full: {free_bytes / 1e9:.1f} GB are free at {folder}, maybe less in the temporary folder.",
            "Free some space (`pip cache purge` gives back old downloads; TMPDIR moves temporary files), "
            "then start the same command again.",
        )
    if NO_CERTIFICATE.search(output):
        return SetupError(
            "The package index could not be trusted: its TLS certificate was not accepted.",
            "Behind a company's proxy, name its certificate: PIP_CERT=/path/to/certificates.pem, then start again.",
        )
    if NO_NETWORK.search(output):
        return SetupError(
            "The package index could not be reached.",
            "Check the network (behind a proxy: HTTPS_PROXY), then start the same command again; "
            f"what was downloaded is kept. pip's own words: {log}",
        )
    if python := BAD_PYTHON.search(output):
        return SetupError(
            f"A package does not run on this Python: {python.group(1).strip()}.",
            "Name another one: SHARDBOARD_PYTHON=/path/to/python3.12, after removing the folder .venv.",
        )
    if version := NO_VERSION.search(output):
        return SetupError(
            f"The package index offers no {version.group(1)} for this machine and this Python.",
            "A Python of another version may help (SHARDBOARD_PYTHON=/path/to/python3.12, after removing the folder "
            f".venv). PyTorch no longer makes builds for Macs with Intel processors. pip's own words: {log}",
        )
    last = "\n".join(f"    {line}" for line in output.strip().splitlines()[-8:])
    return SetupError(f"pip failed. Its last words:\n{last}", f"All of them are in {log}.")
