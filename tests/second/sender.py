"""The sending end of a native session."""

import collections
import os
import socket
import stat
import sys

import wire
from wire import Breach


class File:
    def __init__(self, path, size):
        self.path = path
        self.size = size
        self.stage = "announced"
        self.todo = collections.deque()
        self.sent = set()
        self.asked = set()
        self.tries = collections.Counter()
        # Digests by part: hashed here, or reported by the receiver as kept.
        self.digests = {}

    def is_whole(self):
        if self.stage == "none":
            return True
        return self.stage == "bodies" and not self.todo and self.asked <= self.sent


def walk(roots):
    """All entries to send: files, then links and directories, each directory after its contents."""
    files, others = [], []
    for root in map(os.fsencode, roots):
        root = os.path.abspath(root)
        _visit(root, os.path.basename(root), files, others)
    return files + others


def _visit(path, name, files, others):
    status = os.lstat(path)
    item = (path, name, status)
    if stat.S_ISREG(status.st_mode):
        files.append(item)
    elif stat.S_ISLNK(status.st_mode):
        others.append(item)
    elif stat.S_ISDIR(status.st_mode):
        for child in sorted(os.listdir(path)):
            _visit(os.path.join(path, child), name + b"/" + child, files, others)
        others.append(item)


# With names and targets of the greatest length, this many entries stay within the limit on bytes of names.
IN_FLIGHT = wire.MAX_NAME_BYTES_IN_FLIGHT // (4096 + 4096)


class Sender:
    def __init__(self, connection, items, damage, only_entry, cut):
        self.connection = connection
        self.items = collections.deque(items)
        self.damage = damage
        self.only_entry = only_entry
        self.cut = cut
        self.announced = 0
        self.open = {}
        self.work = collections.deque()
        self.stored = self.skipped = self.failed = 0
        self.ended = False
        self.compares = False

    def run(self):
        self.connection.say({"ftx": "hello", "version": wire.VERSION, "features": ["etags"], "agent": "second"})
        welcome = self.connection.frame()
        if welcome["ftx"] == "error":
            raise Breach(f"the receiver gave up: {welcome.get('message')}")
        if welcome["ftx"] != "welcome" or wire.number(welcome, "version", 2**32 - 1) != wire.VERSION:
            raise Breach("no welcome")
        self.compares = "etags" in (welcome.get("features") or [])
        heard = self.connection.start_listening()
        self.connection.start_pulse()
        while True:
            self.announce()
            # Received frames are handled first, between two parts.
            if self.work and heard.empty():
                self.send_next()
                continue
            message = heard.get()
            if isinstance(message, Exception):
                raise message
            if self.take(message):
                return

    def announce(self):
        while self.items and len(self.open) < IN_FLIGHT:
            path, name, status = self.items.popleft()
            entry = {"ftx": "entry", "entry": self.announced}
            file = None
            if stat.S_ISREG(status.st_mode):
                entry["type"] = "file"
                file = File(path, status.st_size)
            else:
                entry["type"] = "dir" if stat.S_ISDIR(status.st_mode) else "link"
            wire.write_bytes(entry, "filename", name)
            entry.update(wire.metadata(status))
            if file:
                entry["size"] = file.size
                identity = (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)
                entry["state"] = wire.md5(repr(identity).encode())
            if entry["type"] == "link":
                wire.write_bytes(entry, "target", os.readlink(path))
                del entry["mode"]
            self.open[self.announced] = file
            self.announced += 1
            self.connection.say(entry)
        if not self.items and not self.ended:
            self.ended = True
            self.connection.say({"ftx": "end", "entries": self.announced})

    def send_next(self):
        id = self.work[0]
        file = self.open.get(id)
        if not file or not file.todo:
            self.work.popleft()
            return
        part = file.todo.popleft()
        size = wire.part_size(file.size, part)
        with open(file.path, "rb") as source:
            source.seek(part * wire.PART_BYTES)
            body = source.read(size)
        if len(body) != size:
            del self.open[id]
            self.failed += 1
            self.connection.say({"ftx": "error", "entry": id, "code": "source-changed", "message": "it shrank"})
            return
        header = {"ftx": "part", "entry": id, "part": part, "size": size, "md5": wire.md5(body)}
        file.sent.add(part)
        file.digests[part] = header["md5"]
        if file.stage == "offers":
            self.connection.say(header | {"ftx": "offer"})
            return
        if self.damage and size > 0 and self.only_entry in (None, id):
            self.damage -= 1
            print(f"damaged part {part} of entry {id}")
            body = bytes([body[0] ^ 1]) + body[1:]
        self.connection.say(header, body)
        if self.cut is not None:
            self.cut -= 1
            if self.cut == 0:
                raise Breach("cut on purpose")

    def take(self, message):
        """Handles a frame of the receiver; True for the receipt."""
        kind = message["ftx"]
        if kind == "want":
            for id in wire.runs(message.get("entries"), wire.MAX_IN_FLIGHT):
                self.want(self.file(id), id, message.get("parts"))
        elif kind == "again":
            id, part = wire.number(message, "entry"), wire.number(message, "part")
            self.again(self.file(id), id, part)
        elif kind == "kept" and self.compares:
            self.kept(message)
        elif kind == "stored":
            ids = wire.runs(message.get("entries"), wire.MAX_IN_FLIGHT)
            etags = message.get("etags") if self.compares else [None] * len(ids)
            if not isinstance(etags, list) or len(etags) != len(ids):
                raise Breach("not one etag for each entry")
            for id, etag in zip(ids, etags):
                if id not in self.open:
                    raise Breach(f"entry {id} is not in flight")
                file = self.open.pop(id)
                if file and not file.is_whole():
                    raise Breach(f"entry {id} was not sent whole")
                if self.compares and file and len(file.digests) == wire.parts_of(file.size):
                    if etag != wire.etag(file.digests):
                        raise Breach(f"entry {id} was stored with the etag {etag}")
                    print(f"etag of entry {id}: {etag}")
                self.stored += 1
        elif kind == "receipt":
            theirs = [wire.number(message, key) for key in ("entries", "stored", "skipped", "failed")]
            ours = [self.announced, self.stored, self.skipped, self.failed]
            if not self.ended or self.open or ours != theirs:
                raise Breach(f"the receipt says {theirs}, and it was {ours}")
            print("receipt: {} entries, {} stored, {} skipped, {} failed".format(*theirs))
            return True
        elif kind == "error":
            if message.get("entry") is None:
                raise Breach(f"the receiver gave up: {message.get('code')}: {message.get('message')}")
            id = wire.number(message, "entry", self.announced - 1)
            if id in self.open:
                del self.open[id]
                self.failed += 1
                print(f"entry {id} failed: {wire.string(message, 'code')}")
        elif kind != "busy":
            raise Breach(f"{kind} out of place")
        return False

    def file(self, id):
        if id >= self.announced:
            raise Breach(f"entry {id} was never announced")
        return self.open.get(id, False)

    def kept(self, message):
        id, first = wire.number(message, "entry"), wire.number(message, "part")
        file = self.file(id)
        if file is False:
            return
        digests = message.get("md5")
        if (digests is None) == (message.get("zeros") is None):
            raise Breach("kept needs one of md5 and zeros")
        if digests is None:
            digests = [wire.ZERO_PART] * wire.number(message, "zeros", wire.parts_of(file.size if file else 0))
        if file is None or file.stage != "announced" or not digests:
            raise Breach(f"entry {id}: kept at the wrong time")
        if first + len(digests) > wire.parts_of(file.size):
            raise Breach(f"entry {id} has no such parts")
        print(f"kept {len(digests)} parts of entry {id} from part {first} on")
        for part, digest in enumerate(digests, first):
            if file.digests.setdefault(part, digest) != digest:
                raise Breach(f"part {part} of entry {id} was kept with other content")

    def want(self, file, id, parts):
        if file is False:
            return
        if file is None:
            raise Breach(f"entry {id} is no file")
        count = wire.parts_of(file.size)
        if parts == "none" and file.stage == "offers" and not file.todo:
            file.stage = "none"
            self.skipped += 1
            return
        if parts == "offers" and file.stage == "announced":
            file.stage, asked = "offers", range(count)
        elif parts == "all" and file.stage in ("announced", "offers"):
            file.stage, asked = "bodies", range(count)
        elif isinstance(parts, list) and parts and file.stage in ("announced", "offers"):
            file.stage, asked = "bodies", wire.runs(parts, count)
        else:
            raise Breach(f"entry {id}: {parts!r} at the wrong time")
        if asked[-1] >= count:
            raise Breach(f"entry {id} has no part {asked[-1]}")
        file.todo, file.sent, file.asked = collections.deque(asked), set(), set(asked)
        self.work.append(id)

    def again(self, file, id, part):
        if file is False:
            return
        if file is None or file.stage != "bodies" or part not in file.sent:
            raise Breach(f"part {part} of entry {id} was not sent")
        file.tries[part] += 1
        if file.tries[part] >= wire.MAX_TRIES:
            raise Breach(f"part {part} of entry {id} was asked for too often")
        print(f"again part {part} of entry {id}")
        file.sent.discard(part)
        file.todo.appendleft(part)
        self.work.appendleft(id)


def main(port, roots, damage, only_entry, cut):
    connection = wire.Connection(socket.create_connection(("127.0.0.1", port), timeout=wire.SILENCE))
    try:
        Sender(connection, walk(roots), damage, only_entry, cut).run()
    except (Breach, OSError) as error:
        wire.give_up(connection, "protocol", str(error))
        print(f"sender: {error}", file=sys.stderr)
        return 1
    finally:
        connection.close()
    return 0
