# SPDX-License-Identifier: MIT
"""A lab machine: its memory image, QEMU's command line, and the watch over a run."""
import collections
import contextlib
import os
import re
import selectors
import shutil
import subprocess
import tempfile
import time
from pathlib import Path

import cache

HERE = Path(__file__).parent
MEMORY_MIB = 2048
CPUS = 2
# Each CPU is a socket and a NUMA node with half of the memory, so that policies have a choice.
NODES = [word for node in range(CPUS) for word in (
    "-object", f"memory-backend-ram,id=ram{node},size={MEMORY_MIB // CPUS}M",
    "-numa", f"node,nodeid={node},cpus={node},memdev=ram{node}")]
# A program that hangs is ended by init, and a machine that says nothing for longer by the lab. A
# kernel that is slower by nature has the option patience, a factor.
PROGRAM_SECONDS = 200
SILENT_SECONDS = 260
TOTAL_SECONDS = 900
# More than any run has to say: a console is kept in memory and on disk.
CONSOLE_MAX = 64 << 20
LINE_MAX = 1 << 16

# Without cx16: QEMU 7.2's cmpxchg16b can leave wrong flags behind, and a kernel whose allocator
# uses it dies of that. Without pauth: its emulation doubles the time, and no test needs it.
QEMU = {
    "x86-64": ["qemu-system-x86_64", "-cpu", "max,+svm,+npt,-cx16"],
    "arm64": ["qemu-system-aarch64", "-cpu", "max,pauth=off",
              "-machine", "virt,virtualization=on,gic-version=3,mte=on"],
}
# On a busy machine the timer may not tick while the kernel counts loops to see that it does, and
# the kernel panics: "IO-APIC + timer doesn't work".
APPEND = {"x86-64": "console=ttyS0 no_timer_check", "arm64": "console=ttyAMA0"}
# One thread for both CPUs: with one for each, QEMU 7.2 can lose what a kernel patches in its own
# code. An x86-64 kernel dies of that ("Oops: int3") or hangs; an arm64 kernel was seen, once, to
# leave a vCPU's registers on its CPU, as if nothing had patched KVM into the scheduler. With two
# machines at a time on two cores it is no slower.
ACCELERATOR = "tcg,thread=single"


def command(kernel, folder, image, quiet=False):
    """QEMU's. setpriv, so that no machine outlives the lab, however it ends."""
    words = [APPEND[kernel.arch], "panic=-1", *["quiet"] * quiet,
             *filter(None, [kernel.options.get("append")])]
    return [*cache.DIE_TOO, *QEMU[kernel.arch],
            "-accel", ACCELERATOR, "-m", str(MEMORY_MIB),
            "-smp", f"{CPUS},sockets={CPUS}", *NODES, "-nodefaults", "-no-user-config",
            "-nographic", "-serial", "mon:stdio", "-no-reboot",
            "-kernel", str(folder / "vmlinuz"), "-initrd", str(image),
            "-append", " ".join(words)]


def copy(source, target):
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copy(source, target)


def pack(root, image):
    """A cpio archive of a folder: unpacked by the kernel faster than any compressed one."""
    names = b"\0".join(os.fsencode(path.relative_to(root)) for path in sorted(root.rglob("*")))
    with open(image, "wb") as output:
        subprocess.run(["cpio", "--create", "--format=newc", "--null", "--quiet", "--owner=0:0"],
                       cwd=root, input=names, stdout=output, check=True)


def drop_leftovers(folder):
    """What killed runs left of their images, whose names have the number of their process."""
    for left in folder.iterdir():
        match = re.match(r"(?:image|shell)-([0-9]+)", left.name)
        if match and not Path("/proc", match[1]).exists():
            shutil.rmtree(left) if left.is_dir() else left.unlink(missing_ok=True)


def make_image(image, folder, busybox, files, plan):
    """files: what the guest finds, {path in the guest: path here}. plan: shell text, or None."""
    drop_leftovers(image.parent)
    with tempfile.TemporaryDirectory(prefix=image.name + ".", dir=image.parent) as place:
        root = Path(place)
        (root / "bin").mkdir()
        copy(busybox, root / "bin/busybox")
        copy(HERE / "init", root / "init")
        (root / "bin/busybox").chmod(0o755)
        (root / "init").chmod(0o755)
        for module in sorted((folder / "modules").glob("*.ko")):
            copy(module, root / "modules" / module.name)
        for target, source in files.items():
            copy(source, root / target.lstrip("/"))
        if plan is not None:
            (root / "plan").write_text(plan)
        pack(root, image)


# problem: what ended a machine that did not end by itself, or None. status: QEMU's.
Outcome = collections.namedtuple("Outcome", "problem status seconds")


def read_lines(stream, deadline_of, now=time.monotonic):
    """Lines of a stream as they come, too long ones in parts.

    Raises TimeoutError once deadline_of() has passed, even if there is always more to read.
    """
    selector = selectors.DefaultSelector()
    selector.register(stream, selectors.EVENT_READ)
    rest = b""
    while True:
        left = deadline_of() - now()
        if left <= 0 or not selector.select(left):
            raise TimeoutError
        data = os.read(stream.fileno(), 1 << 16)
        if not data:
            break
        *lines, rest = (rest + data).split(b"\n")
        yield from lines
        if len(rest) > LINE_MAX:
            yield rest
            rest = b""
    if rest:
        yield rest


def run(line, log, reader, patience):
    """Runs QEMU to its end; its console goes into the file `log` and is fed to a Console."""
    start = last = time.monotonic()
    silent_limit, total_limit = SILENT_SECONDS * patience, TOTAL_SECONDS * patience
    problem = None
    with open(log, "wb") as kept, subprocess.Popen(
            line, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            start_new_session=True) as machine:
        try:
            for raw in read_lines(machine.stdout,
                                  lambda: min(last + silent_limit, start + total_limit)):
                last = time.monotonic()
                kept.write(raw + b"\n")
                reader.feed(raw.decode(errors="replace").rstrip("\r"))
                if kept.tell() > CONSOLE_MAX:
                    problem = f"it said more than {CONSOLE_MAX >> 20} MiB"
                    machine.kill()
                    break
            with contextlib.suppress(subprocess.TimeoutExpired):
                machine.wait(timeout=20)
        except TimeoutError:
            silent = time.monotonic() - last
            problem = (f"it said nothing for {silent:.0f} s" if silent >= silent_limit
                       else f"it did not end within {total_limit} s")
        finally:
            # Only a machine that hangs, or whose watcher is being ended, can still run here.
            machine.kill()
        status = machine.wait()
    return Outcome(problem, status, time.monotonic() - start)
