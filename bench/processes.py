"""Processes of the comparison: started, watched while they run, measured when they end, and never left behind."""

import os
import signal
import socket
import subprocess
import threading
import time

LIVE = []  # every process that was started and not yet waited for


class Failure(Exception):
    """A run that did not end as it should; the text is for the report."""


class Process:
    """One child. After `wait`, `cpu` has its seconds and `peak` its resident bytes at most, of its children, too."""

    def __init__(self, args, **options):
        self.name = os.path.basename(args[0])
        self.cpu, self.peak, self.seen, self.code = 0.0, 0, 0, None
        self.child = subprocess.Popen(args, start_new_session=True, **options)
        self.pid = self.child.pid
        LIVE.append(self)

    def wait(self):
        if self.code is None:
            _, status, usage = os.wait4(self.pid, 0)
            LIVE.remove(self)
            self.code = self.child.returncode = os.waitstatus_to_exitcode(status)
            self.cpu = usage.ru_utime + usage.ru_stime
            # A child begins as a copy of us, and the kernel counts that copy as its first peak. What is not above our
            # own peak says nothing about the child; what was seen of it while it ran does.
            peak = usage.ru_maxrss * 1024
            self.peak = peak if peak > own_peak() else self.seen
        return self.code

    def look(self):
        """Note the peak of this process and of all below it, as the kernel keeps it for each."""
        for pid in family(self.pid):
            self.seen = max(self.seen, status_bytes(pid, "VmHWM"))

    def kill(self, how=signal.SIGKILL):
        if self.code is None:
            for pid in reversed(family(self.pid)):
                try:
                    os.kill(pid, how)
                except ProcessLookupError:
                    pass

    def stop(self, patience=5.0):
        """End a daemon: when its children are gone and counted, by SIGTERM, and by force if it does not listen."""
        end = time.monotonic() + patience
        while len(family(self.pid)) > 1 and time.monotonic() < end:
            time.sleep(0.005)
        timer = threading.Timer(patience, self.kill)
        timer.start()
        try:
            self.kill(signal.SIGTERM)
            return self.wait()
        finally:
            timer.cancel()


class Watch(threading.Thread):
    """Looks at the processes of one run every few milliseconds and ends them when their time is up."""

    def __init__(self, processes, seconds):
        super().__init__(daemon=True)
        self.processes, self.deadline = processes, time.monotonic() + seconds
        self.over, self.late = threading.Event(), False

    def __enter__(self):
        self.start()
        return self

    def __exit__(self, *_):
        self.over.set()
        self.join()

    def run(self):
        pause = 0.002
        while not self.over.wait(pause):
            pause = min(pause * 1.5, 0.02)
            self.late = self.late or time.monotonic() > self.deadline
            for process in list(self.processes):
                if process.code is None:
                    process.kill() if self.late else process.look()


def pipeline(commands, stdin=None, stdout=None, log=None, cwd=None):
    """Start `a | b | c`. Paths for the first's stdin and the last's stdout; all write their complaints to `log`."""
    started = []
    with open(log or os.devnull, "ab") as complaints:
        source = open(stdin or os.devnull, "rb")
        for at, command in enumerate(commands):
            last = at == len(commands) - 1
            target = open(stdout or os.devnull, "wb") if last else subprocess.PIPE
            started.append(Process(command, stdin=source, stdout=target, stderr=complaints, cwd=cwd))
            source.close()
            source = started[-1].child.stdout
            if last:
                target.close()
    for process in started:
        process.look()  # some are gone before the watch looks for the first time
    return started


def kill_all():
    for process in list(LIVE):
        process.kill()
    for process in list(LIVE):
        process.wait()


def family(pid):
    """The process and all below it, parents first."""
    found = [pid]
    try:
        for task in os.listdir(f"/proc/{pid}/task"):
            with open(f"/proc/{pid}/task/{task}/children") as children:
                for child in children.read().split():
                    found += family(int(child))
    except OSError:
        pass  # it ended meanwhile
    return found


def status_bytes(pid, field):
    try:
        with open(f"/proc/{pid}/status") as status:
            for line in status:
                if line.startswith(field + ":"):
                    return int(line.split()[1]) * 1024
    except OSError:
        pass
    return 0


def own_peak():
    return status_bytes("self", "VmHWM")


def forget_own_peak():
    """Make our own peak what we use now, so that it hides as few peaks of children as can be."""
    try:
        with open("/proc/self/clear_refs", "w") as refs:
            refs.write("5")
    except OSError:
        pass


def free_port():
    """A port that nobody has; it is free again when the answer arrives, so it is used at once."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def listens(pid, port):
    """Whether somebody listens on the port, in the network that the process lives in, without disturbing them."""
    for family_name in ("tcp", "tcp6"):
        try:
            with open(f"/proc/{pid}/net/{family_name}") as table:
                for line in table:
                    fields = line.split()
                    if fields[3] == "0A" and int(fields[1].rpartition(":")[2], 16) == port:
                        return True
        except (OSError, ValueError):
            pass
    return False


def until(what, condition, processes=(), seconds=20.0, log=None):
    """Wait for something that can be observed; fails when a process that should bring it about ends before."""
    end = time.monotonic() + seconds
    while True:
        answer = condition()
        if answer:
            return answer
        gone = [process.name for process in processes if ended(process)]
        if gone or time.monotonic() > end:
            why = f"{gone[0]} ended" if gone else f"not within {seconds:.0f} s"
            raise Failure(f"{what}: {why}{last_words(log)}")
        time.sleep(0.001)


def ended(process):
    """Whether it ended, without taking its measurements away from `wait`."""
    return os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None


def last_words(log):
    try:
        with open(log, errors="replace") as text:
            lines = [line.strip() for line in text if line.strip()]
        return f" ({lines[-1][:160]})" if lines else ""
    except (OSError, TypeError):
        return ""
