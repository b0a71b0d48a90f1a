"""Sends files the way small textbook programs do: length, header dictionary, body.

    python3 client.py 127.0.0.1 7373 a.txt b.txt
"""

import argparse
import hashlib
import json
import os
import socket
import struct
import sys
import time

# The names of the keys for the file's name and its size.
VARIANTS = {
    "total_size": ("filename", "total_size"),
    "file_size": ("file_name", "file_size"),
    "size": ("filename", "size"),
}

parser = argparse.ArgumentParser()
parser.add_argument("host")
parser.add_argument("port", type=int)
parser.add_argument("files", nargs="+")
parser.add_argument("--variant", choices=VARIANTS, default="total_size")
parser.add_argument("--row", action="store_true", help="all files on one connection")
parser.add_argument("--trickle", action="store_true", help="the header byte by byte")
parser.add_argument("--glue", action="store_true", help="everything for a connection in a single sendall")
parser.add_argument("--upper", action="store_true", help="the digest in uppercase")
parser.add_argument("--pad", type=int, default=0, help="spaces after the dictionary, up to this length")
parser.add_argument("--name", help="the name in the header of the last file")
parser.add_argument("--md5", help="the digest in the header of the last file")
parser.add_argument("--cut", type=int, default=0, help="leave out that many bytes at the end of the last body")
parser.add_argument("--halfway", action="store_true", help="stop inside the last body until a line comes on stdin")
args = parser.parse_args()


def read(path):
    with open(path, "rb") as f:
        return f.read()


def header_of(path, body):
    last = path == args.files[-1]
    name_key, size_key = VARIANTS[args.variant]
    md5 = hashlib.md5(body).hexdigest()
    header = {
        name_key: args.name if last and args.name else os.path.basename(path),
        "md5": args.md5 if last and args.md5 else md5.upper() if args.upper else md5,
        size_key: len(body),
    }
    header = json.dumps(header).ljust(args.pad).encode()
    return struct.pack("i", len(header)) + header


def send_file(sock, path):
    body = read(path)
    header = header_of(path, body)
    if args.trickle:
        for i in range(len(header)):
            sock.sendall(header[i : i + 1])
            time.sleep(0.0005)  # one segment for each byte
    else:
        sock.sendall(header)
    if args.halfway and path == args.files[-1]:
        sock.sendall(body[: len(body) // 2])
        print("halfway", flush=True)
        sys.stdin.readline()
        body = body[len(body) // 2 :]
    if args.cut and path == args.files[-1]:
        body = body[: -args.cut]
    sock.sendall(body)


def send_glued(sock, paths):
    everything = b""
    for path in paths:
        body = read(path)
        everything += header_of(path, body) + body
    sock.sendall(everything)


def send_on_one_connection(paths):
    sock = socket.create_connection((args.host, args.port))
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    if args.glue:
        send_glued(sock, paths)
    else:
        for path in paths:
            send_file(sock, path)
    sock.close()


if args.row:
    send_on_one_connection(args.files)
else:
    for path in args.files:
        send_on_one_connection([path])
