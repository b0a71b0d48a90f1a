#!/usr/bin/env python3
"""A far away machine, near by: a TCP proxy that holds every chunk for a while, and limits the rate only if asked to.

    delay_proxy.py --to HOST:PORT [--listen HOST:PORT] [--round-trip MS] [--rate MBIT/S]

The first line on stdout says where it listens. A connection costs what it would cost over such a line: the client may
speak one round trip after it connected, the server learns of it half a round trip later, and from then on each
direction holds every chunk, the end of the stream too, for half a round trip. What it does not imitate is TCP's slow
start: the two halves of each connection are local, so both sides are at full speed from the first byte.
"""

import argparse
import collections
import socket
import struct
import threading
import time

CHUNK = 1 << 20
# The bytes that one direction holds at most: at 25 ms that is over 10 GB/s, so it never limits a rate by itself.
HELD = 256 << 20
# With a rate, what is on the way and twice as much in queues. Smaller chunks then: each arrives when its last byte does.
QUEUES, RATED_CHUNK = 3, 64 << 10


class Line:
    """One direction of all connections together: what goes over it takes its time, one after another."""

    def __init__(self, rate):
        self.seconds_a_byte, self.free, self.lock = 1 / rate if rate else 0.0, 0.0, threading.Lock()

    def carry(self, count):
        """When the last of so many bytes is on the way."""
        with self.lock:
            self.free = max(self.free, time.monotonic()) + count * self.seconds_a_byte
            return self.free


class Lane:
    """One direction of one connection: a thread that takes, a thread that gives, and what is on the way between."""

    def __init__(self, line, delay, rate):
        self.line, self.delay, self.queue, self.held = line, delay, collections.deque(), 0
        self.chunk, self.most = (RATED_CHUNK, QUEUES * rate * delay) if rate else (CHUNK, HELD)
        self.changed = threading.Condition()
        self.aborted = self.broken = False

    def put(self, chunk):
        with self.changed:
            while self.held > self.most and not self.broken:
                self.changed.wait()
            due = self.line.carry(len(chunk)) + self.delay
            self.queue.append((due, chunk))
            self.held += len(chunk)
            self.changed.notify_all()

    def take(self, source):
        chunk = True
        while chunk and not self.broken:
            try:
                chunk = source.recv(self.chunk)
            except OSError:
                chunk, self.aborted = b"", True  # the other side learns it the same way, after what came before it
            self.put(chunk)

    def give(self, source, target):
        chunk = True
        while chunk:
            with self.changed:
                while not self.queue:
                    self.changed.wait()
                due, chunk = self.queue.popleft()
            time.sleep(max(0, due - time.monotonic()))
            try:
                if chunk:
                    target.sendall(chunk)
                elif self.aborted:
                    reset(target)
                else:
                    target.shutdown(socket.SHUT_WR)
            except OSError:  # nobody is there any more: no use in taking
                chunk = b""
                reset(source)
            with self.changed:
                self.held -= len(chunk)
                self.broken = self.broken or not chunk
                self.changed.notify_all()


def reset(connection):
    """End it so that the other side gets an error instead of an orderly end."""
    try:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        connection.shutdown(socket.SHUT_RDWR)
    except OSError:
        pass  # it is gone already


def thread(target, *args):
    running = threading.Thread(target=target, args=args, daemon=True)
    running.start()
    return running


def roomy(connection):
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    for forced in (32, 33):  # SO_SNDBUFFORCE, SO_RCVBUFFORCE: beyond the system's limit, for root
        try:
            connection.setsockopt(socket.SOL_SOCKET, forced, 8 << 20)
        except OSError:
            pass  # without them the kernel sizes the buffers by itself, which is fine on one machine


def carry(client, target, lines, delay, rate):
    """From the client's connect to the end of both directions, on the clock of a real line."""
    there, back = (Lane(line, delay, rate) for line in lines)
    time.sleep(2 * delay)  # the handshake, as the client sees it
    pumps = [thread(there.take, client)]
    time.sleep(delay)  # its last packet reaches the server
    try:
        server = socket.create_connection(target)
    except OSError:
        reset(client)
        client.close()
        return
    roomy(server)
    pumps += [thread(there.give, client, server), thread(back.take, server), thread(back.give, server, client)]
    for pump in pumps:
        pump.join()
    client.close()
    server.close()


def address(text):
    host, _, port = text.rpartition(":")
    return host.strip("[]") or "127.0.0.1", int(port)


def main():
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--to", type=address, required=True, metavar="HOST:PORT")
    options.add_argument("--listen", type=address, default=("127.0.0.1", 0), metavar="HOST:PORT")
    options.add_argument("--round-trip", type=float, default=50.0, metavar="MS", help="milliseconds (default: 50)")
    options.add_argument("--rate", type=float, metavar="MBIT/S",
                         help="of each direction, for all connections together (default: no limit)")
    given = options.parse_args()
    rate = given.rate and given.rate * 1e6 / 8
    lines = Line(rate), Line(rate)
    with socket.create_server(given.listen, backlog=128) as listener:
        print("Listening on %s:%d" % listener.getsockname()[:2], flush=True)
        while True:
            client, _ = listener.accept()
            roomy(client)
            thread(carry, client, given.to, lines, given.round_trip / 2000, rate)


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        pass
