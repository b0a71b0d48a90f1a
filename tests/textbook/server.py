"""Receives files the way small textbook programs do: length, header dictionary, body.

    python3 server.py folder --files 2

The first line it prints is its port. It ends after that many files.
"""

import argparse
import hashlib
import json
import os
import socket
import struct
import sys

# The names of the keys for the file's name and its size.
VARIANTS = {
    "total_size": ("filename", "total_size"),
    "file_size": ("file_name", "file_size"),
    "size": ("filename", "size"),
}

parser = argparse.ArgumentParser()
parser.add_argument("folder")
parser.add_argument("--variant", choices=VARIANTS, default="total_size")
parser.add_argument("--files", type=int, default=1)
parser.add_argument("--row", action="store_true", help="files in a row until the sender closes")
args = parser.parse_args()
name_key, size_key = VARIANTS[args.variant]


def recv_exact(conn, count):
    """That many bytes, or b"" if the sender closed before the first of them."""
    data = b""
    while len(data) < count:
        more = conn.recv(count - len(data))
        if not more:
            if data:
                sys.exit("the sender closed in the middle of a header")
            return b""
        data += more
    return data


def recv_file(conn):
    """Takes one file; False if the sender closed instead."""
    length = recv_exact(conn, 4)
    if not length:
        return False
    header = json.loads(recv_exact(conn, struct.unpack("i", length)[0]).decode())
    name, left, expected = header[name_key], header[size_key], header["md5"]
    md5 = hashlib.md5()
    with open(os.path.join(args.folder, name), "wb") as f:
        while left > 0:
            data = conn.recv(min(left, 65536))
            if not data:
                sys.exit(name + ": the sender closed before its end")
            f.write(data)
            md5.update(data)
            left -= len(data)
    if md5.hexdigest() != expected:
        sys.exit(name + ": md5 mismatch")
    return True


listener = socket.create_server(("127.0.0.1", 0))
print(listener.getsockname()[1], flush=True)
received = 0
while received < args.files:
    conn, _ = listener.accept()
    while recv_file(conn):
        received += 1
        if not args.row:
            break
    conn.close()
