# SPDX-License-Identifier: MIT
"""The checker sparse, built from the newest suite's source: this machine's own may be too old."""
import shutil
import tempfile
from pathlib import Path

import archive
import cache
import kernel as kernels
import source
import tree as trees


def build(say):
    """The program."""
    want = kernels.extras()["sparse"]

    def inputs(packages):
        return [Path(__file__), *(package.sha256 for package in packages)]

    packages = kernels.take(
        want, lambda locked: cache.find("sparse", inputs(locked)).is_dir(), say).packages

    def fill(folder):
        file = archive.of(want.architecture).fetch(packages[0], say)
        say(f"building {file.name}")
        with tempfile.TemporaryDirectory(dir=folder) as scratch:
            source.unpack(file, scratch)
            status, said = trees.call(["make", "sparse"], scratch)
            if status != 0:
                raise source.BuildError(f"{file.name} does not build:\n{said[-2000:]}")
            shutil.copy(Path(scratch, "sparse"), folder)

    return cache.entry("sparse", inputs(packages), fill) / "sparse"
