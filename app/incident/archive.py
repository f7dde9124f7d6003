"""Zip files with bounds: written the same way each time, read as what a stranger may have made."""

from __future__ import annotations

import io
import re
import zipfile
import zlib
from collections.abc import Mapping

from app.errors import BadInput

MAX_ARCHIVE_BYTES = 64 * 2**20
MAX_FILES = 200
MAX_FILE_BYTES = 64 * 2**20
MAX_TOTAL_BYTES = 128 * 2**20
"""Unpacked. A request of 100,000 tokens with their times takes a tenth of it."""

NAME = re.compile(r"(?:logs/)?[A-Za-z0-9][A-Za-z0-9_-]{0,99}(?:\.[A-Za-z0-9_-]{1,40}){0,6}")
"""One folder deep, nothing that any file system takes for another path. Nothing is unpacked to a disk here; somebody
may do it by hand."""

_SAME_TIME = (1980, 1, 1, 0, 0, 0)
_ENTRY = b"PK\x01\x02"
_ADVICE = "Get the bundle again from where it came."


def write_archive(files: Mapping[str, bytes]) -> bytes:
    """A zip of these files in their order; the same files give the same bytes.

    Raises BadInput when it would be larger than what `read_archive` takes.
    """
    sizes = [len(content) for content in files.values()]
    if len(files) > MAX_FILES or sum(sizes) > MAX_TOTAL_BYTES or max(sizes, default=0) > MAX_FILE_BYTES:
        raise BadInput(
            f"The bundle would hold {sum(sizes) // 2**20:,} MiB, more than can be read back.",
            "A request with log probabilities of a very long prompt has too much to tell; export the run instead.",
        )
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED, compresslevel=6) as archive:
        for name, content in files.items():
            info = zipfile.ZipInfo(name, _SAME_TIME)
            info.compress_type = zipfile.ZIP_DEFLATED
            info.create_system = 3  # as on Unix, wherever it is made
            info.external_attr = 0o100644 << 16
            archive.writestr(info, content)
    return buffer.getvalue()


def read_archive(data: bytes) -> dict[str, bytes]:
    """The files of a zip that may have been made to do harm.

    Raises BadInput: it is no zip, is damaged or encrypted, has names that lead elsewhere or the same name twice, or
    unpacks to more than the bounds.
    """
    if len(data) > MAX_ARCHIVE_BYTES:
        raise BadInput(f"The bundle is larger than {MAX_ARCHIVE_BYTES // 2**20} MiB, which none can be.", _ADVICE)
    # Before zipfile makes an object of each: a million names fit into such a file.
    if data.count(_ENTRY) > MAX_FILES:
        raise BadInput(f"The bundle holds more than {MAX_FILES} files, which none does.", _ADVICE)
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            entries = archive.infolist()
            _check(entries)
            return {entry.filename: _read(archive, entry) for entry in entries}
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError, ValueError, OSError) as error:
        raise BadInput(f"This is no incident bundle, or it is damaged: {error}.", _ADVICE) from error


def _check(entries: list[zipfile.ZipInfo]) -> None:
    names = [entry.filename for entry in entries]
    for entry in entries:
        # zipfile cuts a name at a zero byte and turns the system's separator; what was written is what counts.
        if NAME.fullmatch(entry.filename) is None or entry.orig_filename != entry.filename:
            raise BadInput(f"The bundle names a file {entry.orig_filename[:80]!r}, which no bundle has.", _ADVICE)
        if entry.flag_bits & 0x1:
            raise BadInput("The bundle is encrypted.", "Bundles are not: decrypt it first.")
        if entry.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise BadInput(f"{entry.filename} in the bundle is packed in a way that bundles are not.", _ADVICE)
        if entry.file_size > MAX_FILE_BYTES:
            raise BadInput(f"{entry.filename} in the bundle unpacks to {entry.file_size:,} bytes; that is no bundle.")
    if len({name.casefold() for name in names}) < len(names):
        raise BadInput("The bundle holds a file of the same name twice.", _ADVICE)
    if sum(entry.file_size for entry in entries) > MAX_TOTAL_BYTES:
        raise BadInput(f"The bundle unpacks to more than {MAX_TOTAL_BYTES // 2**20} MiB; that is no bundle.")


def _read(archive: zipfile.ZipFile, entry: zipfile.ZipInfo) -> bytes:
    """Never more than was announced: `_check` has seen that."""
    with archive.open(entry) as file:
        content = file.read(entry.file_size + 1)
    if len(content) != entry.file_size:
        raise BadInput(f"{entry.filename} in the bundle is not as long as it says.", _ADVICE)
    return content
