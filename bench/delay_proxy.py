#!/usr/bin/env python3
"""A TCP proxy that delays every chunk and optionally limits the rate, to simulate a remote machine.

    delay_proxy.py --to HOST:PORT [--listen HOST:PORT] [--round-trip MS] [--rate MBIT/S]

The first line on stdout is the address on which it listens. A connection takes the time that it would take over such a
link: data from the client is accepted one round trip after its connect, the server gets the connection half a round
trip later, and from then on each direction delays every chunk, and the end of the stream, by half a round trip. TCP's
slow start is not simulated: both halves of a connection are local and run at full speed from the first byte.
"""

import argparse
import collections
import socket
import struct
import threading
import time

CHUNK = 1 << 20
# Buffer limit of one direction in bytes: with 25 ms more than 10 GB/s, so it does not limit the rate.
HELD = 256 << 20
# With a rate limit: the bytes in transit and twice as much in queues, in smaller chunks, because each chunk arrives when
# its last byte does.
QUEUES, RATED_CHUNK = 3, 64 << 10


class Link:
    """One direction of the link, shared by all connections: serializes bytes at the given rate."""

    def __init__(self, rate):
        self.seconds_a_byte, self.free, self.lock = 1 / rate if rate else 0.0, 0.0, threading.Lock()

    def carry(self, count):
        """The time at which the last of `count` bytes has been sent."""
        with self.lock:
            self.free = max(self.free, time.monotonic()) + count * self.seconds_a_byte
            return self.free


class Lane:
    """One direction of one connection: a reading thread, a writing thread, and a queue of the chunks in transit."""

    def __init__(self, line, delay, rate):
        self.line, self.delay, self.queue, self.held = line, delay, collections.deque(), 0
        self.chunk, self.max_held = (RATED_CHUNK, QUEUES * rate * delay) if rate else (CHUNK, HELD)
        self.changed = threading.Condition()
        self.aborted = self.broken = False

    def put(self, chunk):
        with self.changed:
            while self.held > self.max_held and not self.broken:
                self.changed.wait()
            due = self.line.carry(len(chunk)) + self.delay
            self.queue.append((due, chunk))
            self.held += len(chunk)
            self.changed.notify_all()

    def read_from(self, source):
        chunk = True
        while chunk and not self.broken:
            try:
                chunk = source.recv(self.chunk)
            except OSError:
                chunk, self.aborted = b"", True  # passed on as a reset, after the queued chunks
            self.put(chunk)

    def write_to(self, source, target):
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
            except OSError:  # the target is gone: stop reading
                chunk = b""
                reset(source)
            with self.changed:
                self.held -= len(chunk)
                self.broken = self.broken or not chunk
                self.changed.notify_all()


def reset(connection):
    """Closes the connection with a reset instead of an orderly end."""
    try:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        connection.shutdown(socket.SHUT_RDWR)
    except OSError:
        pass  # already closed


def thread(target, *args):
    running = threading.Thread(target=target, args=args, daemon=True)
    running.start()
    return running


def enlarge_buffers(connection):
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    for forced in (32, 33):  # SO_SNDBUFFORCE, SO_RCVBUFFORCE: exceed the system's limit, root only
        try:
            connection.setsockopt(socket.SOL_SOCKET, forced, 8 << 20)
        except OSError:
            pass  # the kernel's automatic buffer sizes suffice on one machine


def carry(client, target, lines, delay, rate):
    """Handles one connection, with the timing of a real link, until both directions have ended."""
    there, back = (Lane(line, delay, rate) for line in lines)
    time.sleep(2 * delay)  # the handshake as seen by the client
    pumps = [thread(there.read_from, client)]
    time.sleep(delay)  # its last packet reaches the server
    try:
        server = socket.create_connection(target)
    except OSError:
        reset(client)
        client.close()
        return
    enlarge_buffers(server)
    pumps += [thread(there.write_to, client, server)]
    pumps += [thread(back.read_from, server), thread(back.write_to, server, client)]
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
    lines = Link(rate), Link(rate)
    with socket.create_server(given.listen, backlog=128) as listener:
        print("Listening on %s:%d" % listener.getsockname()[:2], flush=True)
        while True:
            client, _ = listener.accept()
            enlarge_buffers(client)
            thread(carry, client, given.to, lines, given.round_trip / 2000, rate)


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        pass
