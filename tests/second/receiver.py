"""The receiving end of a native session."""

import os
import socket
import sys

import wire
from wire import Breach


class File:
    def __init__(self, message, name, size):
        self.message = message
        self.name = name
        self.size = size
        self.stage = "undecided"
        self.missing = set(range(wire.parts_of(size)))
        self.tries = {}
        self.landing = None
        # By part, as verified.
        self.digests = {}


class Receiver:
    def __init__(self, connection, root, ask_again, want_runs, lie):
        self.connection = connection
        self.root = root
        self.ask_again = ask_again
        self.want_runs = want_runs
        self.lie = lie
        self.announced = 0
        self.tells_etags = False
        self.files = {}
        self.waiting = []
        self.stored = self.skipped = self.failed = self.bytes = 0

    def run(self):
        hello = self.connection.frame()
        if hello["ftx"] != "hello":
            raise Breach("no hello")
        if wire.number(hello, "version", 2**32 - 1) < wire.VERSION:
            wire.give_up(self.connection, "version", "too old")
            raise Breach("too old")
        self.tells_etags = "etags" in (hello.get("features") or [])
        features = ["etags"] if self.tells_etags else []
        self.connection.say({"ftx": "welcome", "version": wire.VERSION, "features": features, "agent": "second"})
        self.connection.start_pulse()
        ended = False
        while not ended or self.files or self.waiting:
            message = self.connection.frame()
            kind = message["ftx"]
            if kind == "entry" and not ended:
                self.entry(message)
            elif kind in ("part", "offer"):
                self.part(kind, message)
            elif kind == "end" and not ended:
                if wire.number(message, "entries") != self.announced:
                    raise Breach("the end lies")
                ended = True
            elif kind == "error":
                self.withdrawn(message)
            elif kind != "busy" and not (kind == "totals" and not ended):
                raise Breach(f"{kind} out of place")
            self.apply_others()
        receipt = {
            "ftx": "receipt",
            "entries": self.announced,
            "stored": self.stored,
            "skipped": self.skipped,
            "failed": self.failed,
            "bytes": self.bytes,
        }
        self.connection.say(receipt)
        print(f"receipt: {self.announced} entries, {self.stored} stored, {self.skipped} skipped, {self.failed} failed")

    def path(self, name):
        return os.path.join(self.root, name)

    def entry(self, message):
        id = wire.number(message, "entry")
        if id != self.announced:
            raise Breach(f"entry {id}, {self.announced} expected")
        if len(self.files) + len(self.waiting) >= wire.MAX_IN_FLIGHT:
            raise Breach("too many entries in flight")
        self.announced += 1
        kind, name = wire.string(message, "type"), wire.read_bytes(message, "filename")
        target = wire.read_bytes(message, "target") if kind == "link" else None
        size = wire.number(message, "size") if kind == "file" else 0
        wrong = wire.check_name(name)
        if wrong is None and kind == "link":
            wrong = wire.check_target(target, name)
        if wrong is not None:
            self.fail(id, "name", wrong)
        elif size >= 2**63:
            self.fail(id, "no-space", "no file is that large")
        elif kind == "file":
            self.decide(id, File(message, name, size))
        elif kind in ("dir", "link"):
            self.waiting.append((id, kind, name, target, message))
        else:
            raise Breach(f"an entry of type {kind!r}")

    def decide(self, id, file):
        self.files[id] = file
        path = self.path(file.name)
        if os.path.isfile(path) and not os.path.islink(path) and os.path.getsize(path) == file.size:
            file.stage = "offers"
            self.want(id, "offers")
        elif os.path.lexists(path):
            self.fail(id, "exists", "something else is there")
        else:
            self.want_bodies(id, file)

    def want_bodies(self, id, file):
        file.stage = "bodies"
        file.missing = set(range(wire.parts_of(file.size)))
        self.want(id, [[0, len(file.missing) - 1]] if self.want_runs else "all")

    def want(self, id, parts):
        self.connection.say({"ftx": "want", "entries": [[id, id]], "parts": parts})

    def part(self, kind, message):
        id, part, size = (wire.number(message, key) for key in ("entry", "part", "size"))
        digest = wire.string(message, "md5").lower()
        if id >= self.announced or size > wire.PART_BYTES:
            raise Breach(f"part {part} of entry {id}")
        body = self.connection.body(size) if kind == "part" else None
        file = self.files.get(id)
        if file is None or (kind == "offer" and file.stage == "bodies"):
            return
        if part >= wire.parts_of(file.size) or size != wire.part_size(file.size, part) or part not in file.missing:
            raise Breach(f"part {part} of entry {id} does not fit")
        # A small file may be sent before its sender learns that the name exists.
        unasked = kind == "part" and file.stage == "offers" and file.size <= wire.SMALL_FILE_BYTES
        if file.stage != ("bodies" if kind == "part" else "offers") and not unasked:
            raise Breach(f"part {part} of entry {id} was not wanted")
        if kind == "offer" or unasked:
            self.compare(id, file, part, size, digest)
        else:
            self.body(id, file, part, body, digest)

    def compare(self, id, file, part, size, digest):
        with open(self.path(file.name), "rb") as there:
            there.seek(part * wire.PART_BYTES)
            same = wire.md5(there.read(size)) == digest
        if not same:
            self.fail(id, "exists", "a different file is there")
            return
        file.missing.discard(part)
        file.digests[part] = digest
        if not file.missing:
            self.want(id, "none")
            self.skipped += 1
            self.settle(id)

    def body(self, id, file, part, body, digest):
        if wire.md5(body) != digest or self.ask_again > 0:
            self.ask_again = max(0, self.ask_again - 1)
            file.tries[part] = file.tries.get(part, 0) + 1
            if file.tries[part] >= wire.MAX_TRIES:
                self.fail(id, "digest", "damaged again and again")
            else:
                print(f"asked again for part {part} of entry {id}")
                self.connection.say({"ftx": "again", "entry": id, "part": part})
            return
        if file.landing is None:
            folder = os.path.dirname(self.path(file.name))
            os.makedirs(folder, mode=0o700, exist_ok=True)
            file.landing = os.path.join(folder, b".ftx-second-%d" % id)
            os.close(os.open(file.landing, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
        with open(file.landing, "r+b") as landing:
            landing.seek(part * wire.PART_BYTES)
            landing.write(body)
        file.missing.discard(part)
        file.digests[part] = digest
        self.bytes += len(body)
        if not file.missing:
            handle = os.open(file.landing, os.O_RDONLY)
            wire.set_metadata(file.landing, file.message)
            os.fsync(handle)
            os.close(handle)
            os.rename(file.landing, self.path(file.name))
            sync(os.path.dirname(self.path(file.name)))
            self.settle(id)

    def settle(self, id):
        file = self.files.pop(id, None)
        self.stored += 1
        stored = {"ftx": "stored", "entries": [[id, id]]}
        if self.tells_etags:
            stored["etags"] = [self.etag(file)]
        self.connection.say(stored)

    def etag(self, file):
        if file is None:
            return None
        etag = wire.etag(file.digests)
        if self.lie and file.size > 0:
            etag = wire.md5(etag.encode()) + etag[32:]
        return etag

    def fail(self, id, code, sentence):
        file = self.files.pop(id, None)
        if file and file.landing:
            os.unlink(file.landing)
        self.failed += 1
        print(f"entry {id} failed: {code}")
        self.connection.say({"ftx": "error", "entry": id, "code": code, "message": sentence})

    def withdrawn(self, message):
        if message.get("entry") is None:
            raise Breach(f"the sender gave up: {message.get('code')}: {message.get('message')}")
        id = wire.number(message, "entry")
        if id >= self.announced:
            raise Breach(f"entry {id} was never announced")
        file = self.files.pop(id, None)
        if file:
            self.failed += 1
            if file.landing:
                os.unlink(file.landing)

    def apply_others(self):
        """Directories and links that can be committed: every file before them is settled."""
        while self.waiting and not any(id < self.waiting[0][0] for id in self.files):
            id, kind, name, target, message = self.waiting.pop(0)
            path = self.path(name)
            try:
                if kind == "dir":
                    os.makedirs(path, mode=0o700, exist_ok=True)
                    handle = os.open(path, os.O_RDONLY)
                    wire.set_metadata(path, message)
                    os.fsync(handle)
                    os.close(handle)
                else:
                    os.makedirs(os.path.dirname(path), mode=0o700, exist_ok=True)
                    os.symlink(target, path)
                    wire.set_time(path, message)
                sync(os.path.dirname(path))
                self.settle(id)
            except FileExistsError:
                self.fail(id, "exists", "something else is there")


def sync(path):
    handle = os.open(path, os.O_RDONLY)
    os.fsync(handle)
    os.close(handle)


def main(root, ask_again, want_runs, lie):
    root = os.path.abspath(os.fsencode(root))
    os.makedirs(root, exist_ok=True)
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(wire.SILENCE)
        print(server.getsockname()[1], flush=True)
        connection = wire.Connection(server.accept()[0])
    try:
        Receiver(connection, root, ask_again, want_runs, lie).run()
    except (Breach, OSError) as error:
        wire.give_up(connection, "protocol", str(error))
        print(f"receiver: {error}", file=sys.stderr)
        return 1
    finally:
        connection.close()
    return 0
