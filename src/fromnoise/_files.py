"""Files written whole or not at all, and hashes of what was read."""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


def sha256(content: bytes) -> str:
    """The SHA-256 of ``content``, in hexadecimal."""
    return hashlib.sha256(content).hexdigest()


@contextmanager
def replacing(path: str | Path) -> Iterator[Path]:
    """Yield a temporary path beside ``path`` that becomes ``path`` if the block succeeds.

    The rename is atomic, so that a reader, or a crash, sees the old file or the new one, never a
    part. If the block raises, the temporary file is removed and ``path`` is untouched.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".part", dir=path.parent)
    os.close(handle)
    part = Path(name)
    try:
        yield part
        with part.open("rb+") as stream:
            os.fsync(stream.fileno())
        # mkstemp makes files private; a file in a shared folder gets the usual permissions.
        umask = os.umask(0)
        os.umask(umask)
        part.chmod(0o666 & ~umask)
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def write_bytes(path: str | Path, content: bytes) -> None:
    """Write ``content`` to ``path`` atomically."""
    with replacing(path) as part:
        part.write_bytes(content)


@contextmanager
def new_folder(path: str | Path) -> Iterator[Path]:
    """Yield a temporary folder beside ``path`` that becomes ``path`` if the block succeeds.

    So a folder of several files, too, is seen whole or not at all.

    Raises:
        FileExistsError: there is something at ``path`` already, other than an empty folder.
    """
    path = Path(path)
    if path.exists() and not (path.is_dir() and not any(path.iterdir())):
        raise FileExistsError(f"{path} exists already: name a new folder, or remove it")
    path.parent.mkdir(parents=True, exist_ok=True)
    part = Path(tempfile.mkdtemp(prefix=f".{path.name}.", suffix=".part", dir=path.parent))
    try:
        yield part
        umask = os.umask(0)
        os.umask(umask)
        part.chmod(0o777 & ~umask)  # mkdtemp makes folders private
        if path.exists():
            path.rmdir()  # an empty folder; raises if somebody filled it meanwhile
        part.rename(path)
    finally:
        shutil.rmtree(part, ignore_errors=True)


def cache_dir() -> Path:
    """Where downloads are kept: ``FROMNOISE_CACHE``, else the platform's cache folder."""
    import pooch

    return Path(os.environ.get("FROMNOISE_CACHE") or pooch.os_cache("fromnoise"))


def fetch(address: str, known_hash: str, folder: Path, name: str) -> Path:
    """The file from ``folder`` if its hash is right, else downloaded there, with a progress bar.

    A download is moved into place only after its hash is found right.

    Args:
        address: where to find it.
        known_hash: such as ``"sha256:..."`` or ``"md5:..."``.
        folder: where it is kept.
        name: its name there.

    Raises:
        OSError: if the address does not answer (requests' exceptions are OSErrors).
        ValueError: if what it sent has another hash.
    """
    import pooch

    pooch.get_logger().setLevel("WARNING")  # the progress bar says enough
    # Seconds to connect, and between two packets: a missing network must be noticed fast.
    downloader = pooch.HTTPDownloader(timeout=(4, 20), progressbar=True)
    return Path(
        pooch.retrieve(
            address, known_hash=known_hash, fname=name, path=folder, downloader=downloader
        )
    )
