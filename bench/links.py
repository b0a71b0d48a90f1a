"""The link between the two ends: loopback, a delay, 1 Gbit/s, or both."""

import os
import subprocess
import sys

import processes


class Loopback:
    """A direct connection on this machine."""

    description = "over loopback"
    address = "127.0.0.1"

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def sender(self, command):
        return command

    def receiver(self, command):
        return command

    def connect(self, port, _log):
        """The address at which a sender reaches a receiver that listens on `port`."""
        return self.address, port

    def disconnect(self):
        """Called after each run."""

    def close(self):
        """Called after the last run."""


class Delay(Loopback):
    """A proxy that delays every chunk by half a round trip."""

    def __init__(self, milliseconds=50, megabits=None):
        self.milliseconds, self.megabits, self.proxy = milliseconds, megabits, None
        rate = f" and {megabits / 1000:g} Gbit/s" if megabits else ""
        self.description = f"over a delay of {milliseconds} ms round trip{rate}"

    def connect(self, port, log):
        self.disconnect()
        script = os.path.join(os.path.dirname(os.path.abspath(__file__)), "delay_proxy.py")
        command = [sys.executable, "-I", script, "--to", f"{self.address}:{port}"]
        command += ["--round-trip", str(self.milliseconds)]
        command += ["--rate", str(self.megabits)] if self.megabits else []
        with open(log, "ab") as stderr_log:
            self.proxy = processes.Process(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=stderr_log)
        line = self.proxy.child.stdout.readline().decode()
        if not line:
            raise processes.Failure("the delay proxy did not start" + processes.last_line(log))
        return self.address, int(line.rpartition(":")[2])

    def disconnect(self):
        if self.proxy:
            self.proxy.kill()
            self.proxy.wait()
            self.proxy.child.stdout.close()
            self.proxy = None

    close = disconnect


class Gigabit(Loopback):
    """Two network namespaces and a pair of virtual interfaces, each limited to 1 Gbit/s outgoing."""

    description = "over 1 Gbit/s"
    address = "192.0.2.2"

    def __init__(self):
        self.spaces = [f"ftx-bench-{os.getpid()}-{side}" for side in ("send", "recv")]
        self.made = []

    def __enter__(self):
        try:
            for space in self.spaces:
                self.made.append(space)
                run("ip", "netns", "add", space)
            run("ip", "link", "add", "ftx0", "netns", self.spaces[0], "type", "veth",
                "peer", "name", "ftx1", "netns", self.spaces[1])
            for number, space in enumerate(self.spaces):
                card = f"ftx{number}"
                run("ip", "-n", space, "addr", "add", f"192.0.2.{number + 1}/24", "dev", card)
                for each in ("lo", card):
                    run("ip", "-n", space, "link", "set", each, "up")
                run("tc", "-n", space, "qdisc", "add", "dev", card, "root", "tbf",
                    "rate", "1gbit", "burst", "1mb", "latency", "50ms")
        except BaseException:
            self.close()
            raise
        return self

    def sender(self, command):
        return ["nsenter", f"--net=/run/netns/{self.spaces[0]}", *command]

    def receiver(self, command):
        return ["nsenter", f"--net=/run/netns/{self.spaces[1]}", *command]

    def close(self):
        while self.made:  # this removes the interfaces, too
            subprocess.run(["ip", "netns", "delete", self.made.pop()], stderr=subprocess.DEVNULL, check=False)


def run(*command):
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except OSError as error:
        raise processes.Failure(f"{command[0]}: {error.strerror}") from None
    if done.returncode:
        raise processes.Failure(f"{' '.join(command[:3])}: {done.stderr.strip() or done.returncode}")


def link_for(where):
    """The link of a case, or a Failure with the reason why it is not available."""
    if where == "gigabit" and os.geteuid():
        raise processes.Failure("network namespaces need root")
    return {"delay": Delay, "far": lambda: Delay(megabits=1000), "gigabit": Gigabit}.get(where, Loopback)()
