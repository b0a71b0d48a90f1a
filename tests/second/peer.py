#!/usr/bin/env python3
"""A second implementation of the native dialect, written from docs/protocol.md alone.

    peer.py send [--damage N] [--only-entry M] [--cut N] PORT FILE...
        sends to 127.0.0.1:PORT; damages the first N bodies (of entry M) on their way; gives up after N bodies
    peer.py recv [--again N] [--runs] [--lie] DIR
        prints its port and takes one session; asks again for the first N bodies although they arrived well; asks for
        parts by runs; tells etags of other content than it has

It is for tests: it trusts the folders it works in, and takes no care of links that others plant there.
"""

import argparse
import sys

import receiver
import sender


def main():
    parser = argparse.ArgumentParser()
    commands = parser.add_subparsers(dest="command", required=True)
    send = commands.add_parser("send")
    send.add_argument("--damage", type=int, default=0)
    send.add_argument("--only-entry", type=int)
    send.add_argument("--cut", type=int)
    send.add_argument("port", type=int)
    send.add_argument("files", nargs="+")
    recv = commands.add_parser("recv")
    recv.add_argument("--again", type=int, default=0)
    recv.add_argument("--runs", action="store_true")
    recv.add_argument("--lie", action="store_true")
    recv.add_argument("dir")
    args = parser.parse_args()
    if args.command == "send":
        return sender.main(args.port, args.files, args.damage, args.only_entry, args.cut)
    return receiver.main(args.dir, args.again, args.runs, args.lie)


if __name__ == "__main__":
    sys.exit(main())
