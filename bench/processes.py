"""Starts, watches, measures and stops the processes of the comparison."""

import os
import signal
import socket
import subprocess
import threading
import time

LIVE = []  # processes that were started and not yet waited for


class Failure(Exception):
    """A failed run; the text is for the report."""


class Process:
    """One child process. After `wait`, `cpu` is its CPU seconds and `peak` its peak of resident bytes, with children."""

    def __init__(self, args, **options):
        self.name = os.path.basename(args[0])
        self.cpu, self.peak, self.sampled_peak, self.code = 0.0, 0, 0, None
        self.child = subprocess.Popen(args, start_new_session=True, **options)
        self.pid = self.child.pid
        LIVE.append(self)

    def wait(self):
        if self.code is None:
            _, status, usage = os.wait4(self.pid, 0)
            LIVE.remove(self)
            self.code = self.child.returncode = os.waitstatus_to_exitcode(status)
            self.cpu = usage.ru_utime + usage.ru_stime
            # A child starts as a copy of this process, which the kernel counts in its peak. A value up to the own peak
            # is therefore meaningless; the samples taken while the child ran are used instead.
            peak = usage.ru_maxrss * 1024
            self.peak = peak if peak > own_peak() else self.sampled_peak
        return self.code

    def sample_peak(self):
        """Samples the peak of this process and all its descendants, as recorded by the kernel."""
        for pid in process_tree(self.pid):
            self.sampled_peak = max(self.sampled_peak, status_bytes(pid, "VmHWM"))

    def kill(self, how=signal.SIGKILL):
        if self.code is None:
            for pid in reversed(process_tree(self.pid)):
                try:
                    os.kill(pid, how)
                except ProcessLookupError:
                    pass

    def stop(self, patience=5.0):
        """Stops a daemon: waits for its children, so that they are counted; then SIGTERM, then SIGKILL."""
        end = time.monotonic() + patience
        while len(process_tree(self.pid)) > 1 and time.monotonic() < end:
            time.sleep(0.005)
        timer = threading.Timer(patience, self.kill)
        timer.start()
        try:
            self.kill(signal.SIGTERM)
            return self.wait()
        finally:
            timer.cancel()


class Watch(threading.Thread):
    """Samples the processes of one run every few milliseconds and kills them after the time limit."""

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
                    process.kill() if self.late else process.sample_peak()


def pipeline(commands, stdin=None, stdout=None, log=None, cwd=None):
    """Starts `a | b | c`: `stdin` of the first and `stdout` of the last are paths; stderr of all goes to `log`."""
    started = []
    with open(log or os.devnull, "ab") as stderr_log:
        source = open(stdin or os.devnull, "rb")
        for at, command in enumerate(commands):
            last = at == len(commands) - 1
            target = open(stdout or os.devnull, "wb") if last else subprocess.PIPE
            started.append(Process(command, stdin=source, stdout=target, stderr=stderr_log, cwd=cwd))
            source.close()
            source = started[-1].child.stdout
            if last:
                target.close()
    for process in started:
        process.sample_peak()  # some exit before the first sample of the watch
    return started


def kill_all():
    for process in list(LIVE):
        process.kill()
    for process in list(LIVE):
        process.wait()


def process_tree(pid):
    """The process and all its descendants, parents first."""
    found = [pid]
    try:
        for task in os.listdir(f"/proc/{pid}/task"):
            with open(f"/proc/{pid}/task/{task}/children") as children:
                for child in children.read().split():
                    found += process_tree(int(child))
    except OSError:
        pass  # the process has ended
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


def reset_own_peak():
    """Resets the own peak to the current use, so that it hides as few peaks of children as possible."""
    try:
        with open("/proc/self/clear_refs", "w") as refs:
            refs.write("5")
    except OSError:
        pass


def free_port():
    """An unused port. It is not reserved, so the caller must use it at once."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def listens(pid, port):
    """Whether the port is in state LISTEN in the network namespace of the process; does not connect."""
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
    """Polls until `condition()` is true; fails if one of `processes` ends before, or after `seconds`."""
    end = time.monotonic() + seconds
    while True:
        answer = condition()
        if answer:
            return answer
        gone = [process.name for process in processes if ended(process)]
        if gone or time.monotonic() > end:
            why = f"{gone[0]} ended" if gone else f"not within {seconds:.0f} s"
            raise Failure(f"{what}: {why}{last_line(log)}")
        time.sleep(0.001)


def ended(process):
    """Whether it has ended; leaves the process for `wait`."""
    return os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None


def last_line(log):
    try:
        with open(log, errors="replace") as text:
            lines = [line.strip() for line in text if line.strip()]
        return f" ({lines[-1][:160]})" if lines else ""
    except (OSError, TypeError):
        return ""
