"""The compared programs, and the commands that make each of them do the same work."""

import os
import pwd
import secrets
import shutil
import subprocess
from dataclasses import dataclass, field

import processes

PACKAGES = {"socat": "socat", "nc": "netcat-openbsd", "rsync": "rsync", "scp": "openssh-client",
            "ssh": "openssh-client", "ssh-keygen": "openssh-client", "sshd": "openssh-server", "rclone": "rclone"}


@dataclass
class Run:
    """The parameters of one run."""

    workload: object
    into: str      # the empty destination folder
    address: str   # the address on which the receiver listens
    scratch: str   # a folder for settings and logs
    durable: bool  # whether the result must be on stable storage


@dataclass
class Plan:
    """The commands of one run. `send` gets host and port; the receiver is ready when it listens on `port`."""

    receive: list
    send: object
    port: object = None        # None: the receiver chooses one and prints it
    daemon: bool = False       # the receiver does not exit; the run ends with the sender
    receive_to: str = None
    send_from: str = None
    cwd: str = None            # of the receiver
    after: list = field(default_factory=list)  # further commands of the receiver, within the measured time


class Peer:
    name, needs, checks = "", (), "nothing"
    kinds, durable = ("one", "tree", "small"), True

    def title(self, _kind):
        return self.name

    def missing(self):
        """The reason why it cannot be used here, or None."""
        absent = [need for need in self.needs if not find(need)]
        return f"{', '.join(absent)} not installed" if absent else None

    def prepare(self, _scratch):
        """Creates what all runs share; a Failure excludes the peer."""

    def close(self):
        """Removes what `prepare` created outside the scratch folder."""

    def version(self):
        return ""

    def applies(self, kind, where):
        return kind in self.kinds and (where != "disk" or self.durable)

    def promise(self, durable):
        return self.checks + (", then `sync -f`" if durable else "")

    def plan(self, run):
        raise NotImplementedError


class Socat(Peer):
    name, needs, kinds = "socat", ("socat",), ("one",)

    def version(self):
        return first_line(["socat", "-V"], "socat version")

    def plan(self, run):
        port = processes.free_port()
        quick = ["socat", "-u", "-b", "1048576"]
        listen = f"TCP-LISTEN:{port},bind={run.address},reuseaddr"
        return Plan([[*quick, listen, f"CREATE:{run.workload.name}"]],
                    lambda host, to: [[*quick, "STDIN", f"TCP:{host}:{to}"]],
                    port, send_from=run.workload.path, cwd=run.into, after=sync(run))


class Netcat(Peer):
    name, needs = "nc", ("nc", "tar")

    def title(self, kind):
        return "nc" if kind == "one" else "tar|nc|tar"

    def missing(self):
        absent = super().missing()
        if not absent and "OpenBSD" not in words(["nc", "-h"]):
            return "nc is not the OpenBSD version"
        return absent

    def version(self):
        return first_line(["nc", "-h"], "OpenBSD")

    def plan(self, run):
        port, work = processes.free_port(), run.workload
        listen, connect = ["nc", "-d", "-n", "-l", run.address, str(port)], ["nc", "-N", "-n"]
        if not work.folder:
            return Plan([listen], lambda host, to: [[*connect, host, str(to)]], port, send_from=work.path,
                        receive_to=os.path.join(run.into, work.name), after=sync(run))
        pack = ["tar", "-C", os.path.dirname(work.path), "-cf", "-", work.name]
        return Plan([listen, ["tar", "-C", run.into, "-xf", "-"]],
                    lambda host, to: [pack, [*connect, host, str(to)]], port, after=sync(run))


class Rsync(Peer):
    name, needs, checks, extra = "rsync", ("rsync",), "checksum", ()

    def version(self):
        return first_line(["rsync", "--version"], "version")

    def missing(self):
        return super().missing() or (self.extra and "--checksum-choice" not in words(["rsync", "--help"])
                                     and "rsync is too old for --checksum-choice") or None

    def promise(self, durable):
        return self.checks + (", `--fsync`" if durable else "")

    def plan(self, run):
        port, config = processes.free_port(), os.path.join(run.scratch, "rsyncd.conf")
        owner = "uid = root\ngid = root\n" if os.geteuid() == 0 else ""
        write(config, f"use chroot = no\n{owner}reverse lookup = no\nlog file = /dev/null\n"
                      f"[in]\npath = {run.into}\nread only = no\n")
        daemon = ["rsync", "--daemon", "--no-detach", f"--config={config}", f"--address={run.address}"]
        options = ["rsync", "-a", *self.extra] + (["--fsync"] if run.durable else [])
        return Plan([[*daemon, f"--port={port}"]],
                    lambda host, to: [[*options, run.workload.path, f"rsync://{host}:{to}/in/"]], port, daemon=True)


class RsyncMd5(Rsync):
    name, checks, extra = "rsync-md5", "MD5", ("--checksum-choice=md5",)


class Scp(Peer):
    name, needs, durable, checks = "scp", ("scp", "ssh", "ssh-keygen", "sshd"), False, "encrypted"
    made = False

    def version(self):
        return first_line(["ssh", "-V"], "OpenSSH")

    def prepare(self, scratch):
        self.keys = os.path.join(scratch, "ssh")
        os.makedirs(self.keys, mode=0o700)
        for key in ("host", "user"):
            subprocess.run([find("ssh-keygen"), "-q", "-t", "ed25519", "-N", "", "-f", os.path.join(self.keys, key)],
                           check=True)
        daemon, port = self.daemon("127.0.0.1", self.keys)
        log = os.path.join(self.keys, "log")
        server = processes.pipeline([daemon], log=log)[0]
        try:
            processes.until("sshd", lambda: processes.listens(server.pid, port), [server], log=log)
            login = subprocess.run(["ssh", "-p", str(port), *self.options()[1:], f"{user()}@127.0.0.1", "true"],
                                   capture_output=True, text=True, timeout=20, check=False)
            if login.returncode:
                said = (login.stdout + login.stderr).strip().splitlines() or ["no reason"]
                raise processes.Failure(f"no login at its own sshd: {said[-1][:160]}")
        finally:
            server.stop()

    def close(self):
        if self.made and os.path.exists("/run/sshd"):
            os.rmdir("/run/sshd")

    def daemon(self, address, scratch):
        if os.geteuid() == 0 and not os.path.exists("/run/sshd"):
            os.mkdir("/run/sshd", mode=0o755)  # as its service does; removed by `close`
            self.made = True
        port, config = processes.free_port(), os.path.join(scratch, "sshd_config")
        write(config, f"Port {port}\nListenAddress {address}\nHostKey {self.keys}/host\nPidFile none\n"
                      f"AuthorizedKeysFile {self.keys}/user.pub\nStrictModes no\nUsePAM no\nUseDNS no\n"
                      "PermitRootLogin prohibit-password\nSubsystem sftp internal-sftp\n")
        return [find("sshd"), "-D", "-e", "-f", config], port

    def options(self):
        return ["-q", "-F", "none", "-i", f"{self.keys}/user", "-o", "BatchMode=yes", "-o", "IdentitiesOnly=yes",
                "-o", "StrictHostKeyChecking=no", "-o", "UserKnownHostsFile=/dev/null"]

    def plan(self, run):
        daemon, port = self.daemon(run.address, run.scratch)
        return Plan([daemon], lambda host, to: [["scp", "-r", "-P", str(to), *self.options(), run.workload.path,
                                                 f"{user()}@{host}:{run.into}/"]], port, daemon=True)


class Rclone(Peer):
    """Over its own SFTP server, with which it compares MD5 sums afterwards."""

    name, needs, durable, checks = "rclone", ("rclone",), False, "MD5, encrypted"

    def version(self):
        return first_line(["rclone", "version"], "rclone")

    def prepare(self, scratch):
        self.cache, self.password = os.path.join(scratch, "rclone"), secrets.token_hex(8)
        done = subprocess.run(["rclone", "obscure", self.password], capture_output=True, text=True, check=True)
        self.obscured = done.stdout.strip()

    def plan(self, run):
        port, work = processes.free_port(), run.workload
        every = ["--config", "", "--cache-dir", self.cache, "--log-level", "ERROR"]
        serve = ["rclone", "serve", "sftp", run.into, "--addr", f"{run.address}:{port}", "--user", "bench",
                 "--pass", self.password, *every]
        folder = work.name if work.folder else ""
        return Plan([serve], lambda host, to: [[
            "rclone", "copy", work.path, f":sftp:{folder}", "--sftp-host", host, "--sftp-port", str(to),
            "--sftp-user", "bench", "--sftp-pass", self.obscured, *every]], port, daemon=True)


class Ftx(Peer):
    name, checks, program = "ftx", "MD5, durable", "ftx"

    def version(self):
        return first_line([self.program, "--version"], "ftx")

    def promise(self, _durable):
        return self.checks

    def plan(self, run):
        receive = [self.program, "recv", "--progress", "never", "--bind", run.address, "--port", "0", "--out", run.into]
        return Plan([[*receive, "--once"]], lambda host, to: [
            [self.program, "send", "--progress", "never", run.workload.path, f"{host}:{to}"]])


ALL = {peer.name: peer for peer in (Socat(), Netcat(), Rsync(), RsyncMd5(), Scp(), Rclone(), Ftx())}
BASELINE = {"one": "socat", "tree": "nc", "small": "nc"}


def compare_with(program):
    """Adds an earlier ftx as a peer, and makes it the baseline."""
    before = Ftx()
    before.name, before.program = "ftx-before", os.path.abspath(program)
    ALL[before.name] = before
    BASELINE.update(dict.fromkeys(BASELINE, before.name))


def sync(run):
    return [["sync", "-f", run.into]] if run.durable else []


def user():
    return pwd.getpwuid(os.getuid()).pw_name


def find(program):
    """The path of a program; servers are often outside PATH."""
    return shutil.which(program) or shutil.which(program, path="/usr/local/sbin:/usr/sbin:/sbin")


def write(path, text):
    with open(path, "w") as file:
        file.write(text)


def words(command):
    done = subprocess.run(command, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL)
    return done.stdout + done.stderr


def first_line(command, word):
    try:
        return next((" ".join(line.split()) for line in words(command).splitlines() if word in line), "")
    except OSError:
        return ""


def install(chosen):
    """Installs the Debian packages of missing programs, without starting their services."""
    absent = sorted({PACKAGES[need] for peer in chosen for need in peer.needs if need in PACKAGES and not find(need)})
    if not absent:
        return
    policy, forbid = "/usr/sbin/policy-rc.d", not os.path.exists("/usr/sbin/policy-rc.d")
    try:
        if forbid:  # how Debian prevents package scripts from starting services
            write(policy, "#!/bin/sh\nexit 101\n")
            os.chmod(policy, 0o755)
        subprocess.run(["apt-get", "install", "-y", "--no-install-recommends", *absent], check=False,
                       env=os.environ | {"DEBIAN_FRONTEND": "noninteractive"}, stdin=subprocess.DEVNULL, stdout=2)
    except OSError as error:
        raise processes.Failure(f"cannot install {', '.join(absent)}: {error.strerror} (are you root?)") from None
    finally:
        if forbid and os.path.exists(policy):
            os.remove(policy)
