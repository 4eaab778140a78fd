# SPDX-License-Identifier: MIT
"""A folder of made things, each under the hash of all that it was made of.

Any number of runs can use it at once, and any of them can be killed: an entry is made beside its
place by the one who holds its lock, and moved there whole. A lock ends with the process.
"""
import contextlib
import fcntl
import hashlib
import os
import shutil
import tempfile
from pathlib import Path


# Before a command: it ends with this process, whatever ends that, and writes nothing after it.
DIE_TOO = ("setpriv", "--pdeathsig", "KILL", "--")


def root():
    home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(home) / "libgmem-lab"


@contextlib.contextmanager
def lock(path, wait=lambda: None):
    """Holds an exclusive lock. If somebody has it, calls wait(), which may raise, and waits."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "w", encoding="utf-8") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            wait()
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def digest(inputs):
    """The hash of strings, and of files by their content."""
    total = hashlib.sha256()
    for item in inputs:
        data = item.read_bytes() if isinstance(item, Path) else str(item).encode()
        total.update(hashlib.sha256(data).digest())
    return total.hexdigest()[:20]


def find(kind, inputs):
    """The place of an entry, whether or not it is there."""
    return root() / kind / digest(inputs)


def is_used():
    raise BlockingIOError


def drop(place):
    """Removes an entry that nobody uses; for whoever comes next, all at once."""
    with lock(place.with_suffix(".lock")):
        part = Path(tempfile.mkdtemp(prefix=place.name + ".part-", dir=place.parent))
        place.rename(part / place.name)
        shutil.rmtree(part)


def sweep(folder):
    """Removes what killed runs left half made."""
    for part in folder.glob("*.part-*"):
        with contextlib.suppress(BlockingIOError):
            with lock(folder / (part.name.split(".part-")[0] + ".lock"), is_used):
                shutil.rmtree(part, ignore_errors=True)


def entry(kind, inputs, make):
    """The folder that make(folder) fills, made only if no run has made it from these inputs.

    inputs: whatever the result depends on, strings and Paths of files. What make() raises is raised
    again, and leaves nothing.
    """
    place = find(kind, inputs)
    if place.is_dir():
        return place
    sweep(place.parent)
    with lock(place.with_suffix(".lock")):
        if place.is_dir():
            return place
        part = Path(tempfile.mkdtemp(prefix=place.name + ".part-", dir=place.parent))
        try:
            make(part)
        except BaseException:
            shutil.rmtree(part, ignore_errors=True)
            raise
        part.chmod(0o755)
        part.rename(place)
    return place
