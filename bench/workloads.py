"""Creates the files to send, and compares them with the files that arrived."""

import os
import shutil
import tempfile

MIB = 1 << 20
CHUNK = 1 << 20
# Fractions of the full size for links on which a run would take minutes.
SHARE = {"delay": {"one": 0.25, "tree": 0.1, "small": 0.05}, "gigabit": {"one": 0.25},
         "far": {"one": 0.25, "tree": 0.1, "small": 0.05}}


class Unavailable(Exception):
    """A workload that cannot be created here; the text is the reason."""


class Workload:
    """Files to send: `path` is one file or one folder, called `name`."""

    def __init__(self, kind, path, description):
        self.kind, self.path, self.name, self.description = kind, path, os.path.basename(path), description
        found = listing(os.path.dirname(path))
        self.files, self.bytes = len(found), sum(found.values())

    @property
    def folder(self):
        return self.kind != "one"


def clear(path, where):
    """Makes an empty folder at `path`. On a disk, the old folder is moved aside and removed at the end: ext4 does not
    reuse an inode that was deleted in the last minutes, and examines each of them for every new file."""
    if where == "disk" and os.path.isdir(path):
        os.rename(path, tempfile.mkdtemp(prefix="before-", dir=os.path.dirname(path)))
    shutil.rmtree(path, ignore_errors=True)
    os.makedirs(path)


def make(kind, where, base, scale, tree=None):
    """Creates one workload in a new folder below `base`."""
    root = os.path.join(base, "src")
    clear(root, where)
    share = scale * SHARE.get(where, {}).get(kind, 1.0)
    return {"one": one, "tree": source_tree, "small": small}[kind](root, share, tree)


def room(base, needed):
    there = shutil.disk_usage(base).free
    if needed > there:
        raise Unavailable(f"needs {needed // MIB} MiB for source and destination, and only {there // MIB} are free")


def one(root, share, _tree):
    size = max(1, int(1024 * MIB * share))
    room(root, 2 * size + 64 * MIB)
    path = os.path.join(root, "one.bin")
    with open(path, "wb") as file:
        for at in range(0, size, CHUNK):
            file.write(os.urandom(min(CHUNK, size - at)))
    return Workload("one", path, f"one file of {size / MIB:,.0f} MiB, random bytes")


def small(root, share, _tree):
    count = max(1, int(20_000 * share))
    room(root, 2 * count * 8192 + 64 * MIB)
    path = os.path.join(root, "small")
    for folder in range(min(100, count)):
        os.makedirs(os.path.join(path, f"{folder:02}"))
    for number in range(count):
        with open(os.path.join(path, f"{number % 100:02}", f"{number:05}.bin"), "wb") as file:
            file.write(os.urandom(4096))
    return Workload("small", path, f"{count:,} files of 4 KiB in {min(100, count)} folders")


def source_tree(root, share, tree):
    """Regular files only, because the peers treat links and empty folders differently."""
    if not tree:
        home = os.environ.get("CARGO_HOME") or os.path.expanduser("~/.cargo")
        tree = os.path.join(home, "registry", "src")
    found = sorted(listing(tree, links=False).items())
    if not found:
        raise Unavailable("cargo's registry has no sources (`cargo fetch` gets some), and --tree DIR was not given")
    wanted = max(1, int(10_000 * share))
    copies = -(-wanted // len(found))
    if share < 1:  # whole packages from the start of the list, until there are enough files
        packages, taken = lambda path: path.split("/")[:2], found[:wanted]
        taken += [entry for entry in found[wanted:] if packages(entry[0]) == packages(taken[-1][0])]
        found = taken
    room(root, 2 * copies * sum(size + 4096 for _, size in found) + 64 * MIB)
    path = os.path.join(root, "tree")
    for copy in range(copies):
        for name, _ in found:
            target = os.path.join(path, f"copy{copy}", name)
            os.makedirs(os.path.dirname(target), exist_ok=True)
            shutil.copyfile(os.path.join(tree, name), target)
    description = "a source tree" if copies == 1 else f"{copies} copies of a source tree"
    size = copies * sum(size for _, size in found)
    return Workload("tree", path, f"{description}, {copies * len(found):,} files, {size / 1e6:,.0f} MB")


def listing(root, links=True):
    """Every name below `root` that is not a folder, with its size, or None if it is not a regular file."""
    found, folders = {}, [""]
    while folders:
        inside = folders.pop()
        try:
            entries = list(os.scandir(os.path.join(root, inside)))
        except OSError:
            continue
        for entry in entries:
            name = os.path.join(inside, entry.name)
            if entry.is_dir(follow_symlinks=False):
                folders.append(name)
            elif entry.is_file(follow_symlinks=False):
                found[name] = entry.stat().st_size
            elif links:
                found[name] = None
    return found


def difference(workload, arrived):
    """The first difference between the workload and the files below `arrived` (names, sizes, bytes), or None."""
    root = os.path.dirname(workload.path)
    sent, got = listing(root), listing(arrived)
    for what, names in (("missing", sent.keys() - got.keys()), ("not sent", got.keys() - sent.keys())):
        if names:
            return f"{len(names)} {what}, such as {min(names)}"
    for name, size in sent.items():
        if got[name] != size:
            return f"{name} has {got[name]} bytes instead of {size}"
        if not same(os.path.join(root, name), os.path.join(arrived, name)):
            return f"{name} has other bytes"
    return None


def same(left, right):
    with open(left, "rb", buffering=0) as ours, open(right, "rb", buffering=0) as theirs:
        while True:
            chunk = ours.read(CHUNK)
            if chunk != theirs.read(CHUNK):
                return False
            if not chunk:
                return True
