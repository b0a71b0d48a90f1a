"""Frames, parts, names and metadata, as docs/protocol.md describes them. Standard library only."""

import hashlib
import json
import os
import queue
import socket
import stat
import struct
import threading

VERSION = 1
PART_BYTES = 8 << 20
MAX_JSON_BYTES = 65536
MAX_DEPTH = 32
MAX_IN_FLIGHT = 16384
MAX_NAME_BYTES_IN_FLIGHT = 2 << 20
SMALL_FILE_BYTES = 128 << 10
MAX_TRIES = 3
SILENCE = 60.0
PULSE = 1.0


class Breach(Exception):
    """The peer violated the protocol, or ended the session with an error."""


def _table():
    for byte in range(256):
        for _ in range(8):
            byte = (byte >> 1) ^ (0x82F63B78 if byte & 1 else 0)
        yield byte


_CRC = tuple(_table())


def crc32c(data):
    crc = 0xFFFFFFFF
    for byte in data:
        crc = (crc >> 8) ^ _CRC[(crc ^ byte) & 0xFF]
    return crc ^ 0xFFFFFFFF


def encode(message):
    body = json.dumps(message, separators=(",", ":"), ensure_ascii=False).encode()
    frame = struct.pack("<I", len(body)) + body
    return frame + struct.pack("<I", crc32c(frame))


def _once(pairs):
    found = dict(pairs)
    if len(found) != len(pairs):
        raise Breach("a key stands twice")
    return found


def _depth(body):
    depth = deepest = 0
    in_string = escaped = False
    for byte in body:
        if escaped:
            escaped = False
        elif in_string:
            escaped = byte == 0x5C
            in_string = byte != 0x22
        elif byte == 0x22:
            in_string = True
        elif byte in b"[{":
            depth += 1
            deepest = max(deepest, depth)
        elif byte in b"]}":
            depth -= 1
    return deepest


def decode(body):
    if _depth(body) > MAX_DEPTH:
        raise Breach("nested too deep")
    try:
        message = json.loads(body.decode(), object_pairs_hook=_once)
    except ValueError as error:
        raise Breach(f"not JSON: {error}") from error
    if not isinstance(message, dict) or not isinstance(message.get("ftx"), str):
        raise Breach("not an object with a kind")
    return message


def number(message, key, top=2**64 - 1):
    value = message.get(key)
    if type(value) is not int or not 0 <= value <= top:
        raise Breach(f"{message['ftx']}: {key} is {value!r}")
    return value


def string(message, key):
    value = message.get(key)
    if not isinstance(value, str):
        raise Breach(f"{message['ftx']}: {key} is {value!r}")
    return value


def runs(value, most):
    """The ids in ranges, at most `most` of them."""
    if not isinstance(value, list):
        raise Breach("no runs")
    last, count = -1, 0
    for run in value:
        if not (isinstance(run, list) and len(run) == 2 and all(type(end) is int for end in run)):
            raise Breach("a run is two numbers")
        if not last < run[0] <= run[1] < 2**64:
            raise Breach("runs must ascend")
        last = run[1]
        count += run[1] - run[0] + 1
    if count > most:
        raise Breach("too many numbers")
    return [each for first, last in value for each in range(first, last + 1)]


def parts_of(size):
    """The number of parts of a file of this size."""
    return max(1, -(-size // PART_BYTES))


def part_size(size, part):
    return min(PART_BYTES, size - part * PART_BYTES)


# The digest of a full part of zeros.
ZERO_PART = "96995b58d4cbf6aaa9041b4f00c7f6ae"


def etag(digests):
    """The etag of a file, from the digests of its parts by index."""
    ordered = [digests[part] for part in range(len(digests))]
    if len(ordered) == 1:
        return ordered[0]
    return md5(b"".join(map(bytes.fromhex, ordered))) + f"-{len(ordered)}"


def md5(body):
    return hashlib.md5(body, usedforsecurity=False).hexdigest()


def write_bytes(message, key, raw):
    """Puts the bytes of a name or target into an entry."""
    try:
        message[key] = raw.decode()
    except UnicodeDecodeError:
        message[key] = raw.decode(errors="backslashreplace")
        message[key + "_hex"] = raw.hex()


def read_bytes(message, key):
    text = string(message, key)
    if message.get(key + "_hex") is None:
        try:
            return text.encode()
        except UnicodeEncodeError as error:
            raise Breach("half a surrogate pair") from error
    try:
        return bytes.fromhex(string(message, key + "_hex"))
    except ValueError as error:
        raise Breach(f"{key}_hex is not hex") from error


def _is_odd(raw):
    text = raw.decode(errors="surrogateescape")
    return any(
        code < 0x20 or 0x7F <= code <= 0x9F or 0x202A <= code <= 0x202E or 0x2066 <= code <= 0x2069
        for code in map(ord, text)
    )


def check_name(raw):
    """The error in a path; None if it is valid."""
    components = raw.split(b"/")
    if not 1 <= len(raw) <= 4096 or len(components) > 128:
        return "the name is empty, too long or too deep"
    for component in components:
        if component in (b"", b".", b"..") or len(component) > 255 or component.lower().startswith(b".ftx-"):
            return "the name has a bad component"
    if b"\0" in raw or _is_odd(raw):
        return "the name holds a control character"
    return None


def check_target(raw, link):
    """The error in the target of the link at `link`; None if it is valid."""
    if not 1 <= len(raw) <= 4096 or raw.startswith(b"/") or b"\0" in raw or _is_odd(raw):
        return "the target is refused"
    steps = [step for step in raw.split(b"/") if step not in (b"", b".")]
    ups = 0
    while ups < len(steps) and steps[ups] == b"..":
        ups += 1
    if ups > link.count(b"/") or b".." in steps[ups:]:
        return "the target leads out"
    return None


def metadata(status):
    return {"mode": stat.S_IMODE(status.st_mode) & 0o777, "mtime_ns": status.st_mtime_ns}


def set_metadata(path, message):
    """Sets mode and mtime of a committed file or directory."""
    if message.get("mode") is not None:
        os.chmod(path, number(message, "mode", 2**32 - 1) & 0o777)
    set_time(path, message)


def set_time(path, message):
    mtime = message.get("mtime_ns")
    if mtime is None:
        return
    if type(mtime) is not int or not -(2**63) <= mtime < 2**63:
        raise Breach("mtime_ns out of range")
    os.utime(path, ns=(mtime, mtime), follow_symlinks=False)


class Connection:
    """One connection: reads and writes frames and bodies, and sends keepalives."""

    def __init__(self, sock):
        sock.settimeout(SILENCE)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.sock = sock
        self.file = sock.makefile("rb", buffering=1 << 16)
        self.turn = threading.Lock()
        self.spoke = threading.Event()
        self.closed = threading.Event()

    def _read(self, count):
        data = self.file.read(count)
        if len(data) != count:
            raise Breach("the connection ended early")
        return data

    def frame(self):
        field = self._read(4)
        (length,) = struct.unpack("<I", field)
        if not 1 <= length <= MAX_JSON_BYTES:
            raise Breach(f"a length of {length}")
        body = self._read(length)
        (crc,) = struct.unpack("<I", self._read(4))
        if crc != crc32c(field + body):
            raise Breach("a damaged frame")
        return decode(body)

    def body(self, size):
        return self._read(size)

    def say(self, message, body=b""):
        """One frame, and its body if it has one, with nothing in between."""
        with self.turn:
            self.sock.sendall(encode(message) + body)
        self.spoke.set()

    def start_pulse(self):
        def pulse():
            while not self.closed.is_set():
                if not self.spoke.wait(PULSE):
                    try:
                        self.say({"ftx": "busy"})
                    except OSError:
                        return
                self.spoke.clear()

        threading.Thread(target=pulse, daemon=True).start()

    def start_listening(self):
        """Reads frames on a thread; returns their queue. An exception in the queue is its end."""
        heard = queue.Queue()

        def listen():
            try:
                while True:
                    message = self.frame()
                    heard.put(message)
                    if message["ftx"] == "receipt":
                        return
            except (OSError, Breach) as error:
                heard.put(error)

        threading.Thread(target=listen, daemon=True).start()
        return heard

    def close(self):
        self.closed.set()
        try:
            self.sock.shutdown(socket.SHUT_WR)
            while self.sock.recv(1 << 16):
                pass
        except OSError:
            pass
        self.sock.close()


def give_up(connection, code, sentence):
    try:
        connection.say({"ftx": "error", "code": code, "message": sentence[:256]})
    except OSError:
        pass
