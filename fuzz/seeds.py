#!/usr/bin/env python3
"""Renews the seeds of the given targets, or of all, from the inputs that runs discovered:

    fuzz/seeds.py [TARGET...]

Of the inputs in corpus/ and work/, keeps the few small ones that cover the most. Needs the tools that run.sh needs.
"""

import hashlib
import os
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
INPUT_BYTES = 512
FILES = 120
ALL_BYTES = 24 * 1024


def cargo_fuzz(*args):
    # Memory that threads hold at the end is not a leak; see README.md.
    env = {**os.environ, "ASAN_OPTIONS": "detect_leaks=0"}
    command = ["nice", "-n", "19", "cargo", "+nightly", "fuzz", *args]
    return subprocess.run(command, cwd=ROOT, env=env, check=True, stdout=subprocess.PIPE, text=True).stdout


def reached(target, folders, scratch):
    """The features that each input covers: eight numbers for an edge, by how often it is taken."""
    merged, control = scratch / "merged", scratch / "control"
    merged.mkdir()
    options = ["-set_cover_merge=1", f"-max_len={INPUT_BYTES}", f"-merge_control_file={control}"]
    cargo_fuzz("run", target, merged, *folders, "--", *options, "-detect_leaks=0", "-verbosity=0")
    lines = control.read_text().splitlines()
    paths = lines[2 : 2 + int(lines[0])]
    features = {}
    for line in lines[2 + len(paths) :]:
        kind, number, *ids = line.split()
        if kind == "FT":
            features[ROOT / paths[int(number)]] = set(map(int, ids))
    return features


def choose(reach, inputs, known):
    """First the inputs that add the most edges for their size, then those that add the most counts of edges."""
    chosen, bytes_left = [], ALL_BYTES
    for grain in (8, 1):
        seen = {id // grain for path in (*known, *chosen) for id in reach[path]}
        adds = {path: {id // grain for id in reach[path]} - seen for path in inputs if path not in chosen}
        while len(chosen) < FILES:
            adds = {path: ids for path, ids in adds.items() if ids and len(inputs[path]) <= bytes_left}
            if not adds:
                break
            best = max(adds, key=lambda path: (len(adds[path]) / (ALL_BYTES / FILES + len(inputs[path])), path))
            chosen.append(best)
            bytes_left -= len(inputs[best])
            added = adds.pop(best)
            for ids in adds.values():
                ids.difference_update(added)
    return chosen


def renew(target):
    corpus, work = ROOT / "fuzz/corpus" / target, ROOT / "fuzz/work" / target
    # Runs start from the fixtures as well; see run.sh.
    fixtures = [ROOT / "fixtures/wire"] if target == "headers" else []
    corpus.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as scratch:
        folders = [corpus, *fixtures] + ([work] if work.is_dir() else [])
        reach = reached(target, folders, Path(scratch))
    known = [path for path in reach if fixtures and path.is_relative_to(fixtures[0])]
    inputs = {path: path.read_bytes()[:INPUT_BYTES] for path in reach if path not in known}
    chosen = choose(reach, inputs, known)
    for old in corpus.iterdir():
        old.unlink()
    for path in chosen:
        (corpus / hashlib.sha1(inputs[path]).hexdigest()).write_bytes(inputs[path])
    size = sum(len(inputs[path]) for path in chosen)
    part, whole = (len({id // 8 for path in paths for id in reach[path]}) for paths in ([*known, *chosen], reach))
    print(f"{target:16} {len(chosen):4} seeds, {size:6} bytes, {part} of {whole} edges", flush=True)


for target in sys.argv[1:] or cargo_fuzz("list").split():
    renew(target)
