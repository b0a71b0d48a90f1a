#!/usr/bin/env python3
"""Compares ftx with other file-transfer programs on one machine: the same work for each in turn, every result verified.

    bench/compare.py                              everything that runs in memory, 7 rounds
    bench/compare.py --scale 0.05 --rounds 2      a quick look
    bench/compare.py --disk /var/tmp              on that file system as well, durably
    bench/compare.py --workloads one,small@delay  only these
    bench/compare.py --before PATH                only this ftx and an earlier one

Workloads are one, tree and small. Without a suffix they run in memory over loopback; with @delay over 50 ms round trip,
with @gigabit over 1 Gbit/s (root only), with @far over both, with @disk durably on the file system of --disk. See
bench/README.md.
"""

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time

sys.dont_write_bytecode = True
sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))

import chart  # noqa: E402
import links  # noqa: E402
import peers  # noqa: E402
import processes  # noqa: E402
import report  # noqa: E402
import workloads  # noqa: E402

KINDS, PLACES = ("one", "tree", "small"), ("memory", "delay", "gigabit", "far", "disk")
USUAL = "one,tree,small,one@delay,small@delay,one@gigabit,small@gigabit,one@far,small@far"


def log_line(text):
    print(text, file=sys.stderr, flush=True)


def arguments():
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = options.add_argument
    add("--rounds", type=int, default=7, metavar="N", help="number of runs of each peer (default: 7)")
    add("--workloads", metavar="LIST", help=f"default: {USUAL}, and with --disk all three @disk")
    add("--peers", metavar="LIST", help=f"default: all of {','.join(peers.ALL)}")
    add("--scale", type=float, default=1.0, metavar="F", help="a fraction of the full size, such as 0.05 (default: 1)")
    add("--ftx", metavar="PATH", help="the program to measure (default: built by `cargo build --release`)")
    add("--before", metavar="PATH", help="an earlier ftx, the baseline of all ratios")
    add("--tree", metavar="DIR", help="the source tree to send (default: cargo registry sources, 10,000 files or more)")
    add("--memory", default="/dev/shm", metavar="DIR", help="a file system in memory (default: /dev/shm)")
    add("--disk", metavar="DIR", help="a folder on a real file system for the workloads @disk")
    add("--install", action="store_true", help="install missing peers from Debian's packages first (root only)")
    add("--timeout", type=float, default=600, metavar="SECONDS", help="limit for one run (default: 600)")
    add("--patience", type=float, default=60, metavar="SECONDS",
        help="after a run that takes longer, the peer is skipped for that workload (default: 60)")
    add("--out", metavar="FILE.json", help="all measurements")
    add("--svg", metavar="FILE.svg", help="a chart")
    add("--markdown", metavar="FILE", help="the tables (default: to standard output)")
    given = options.parse_args()
    usual = USUAL + (",one@disk,tree@disk,small@disk" if given.disk else "")
    given.cases = []
    for name in (given.workloads or usual).split(","):
        kind, _, where = name.strip().partition("@")
        if kind not in KINDS or (where or "memory") not in PLACES:
            options.error(f"no such workload: {name} ({', '.join(KINDS)}, alone or with @{', @'.join(PLACES[1:])})")
        given.cases.append((kind, where or "memory"))
    usual = ",".join(peers.ALL)
    if given.before:
        peers.compare_with(given.before)
        usual = "ftx-before,ftx"
    given.chosen = [name.strip() for name in (given.peers or usual).split(",")]
    for name in given.chosen:
        if name not in peers.ALL:
            options.error(f"no such peer: {name} ({', '.join(peers.ALL)})")
    if not given.disk and any(where == "disk" for _, where in given.cases):
        options.error("workloads @disk need --disk DIR")
    if given.rounds < 1 or given.scale <= 0:
        options.error("--rounds and --scale must be above 0")
    return given


def built(path):
    """The ftx to measure: the given one, or a new release build."""
    if path:
        if not shutil.which(path):
            raise processes.Failure(f"{path} is not a program")
        return os.path.abspath(shutil.which(path))
    root = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    command = ["cargo", "build", "--release", "--message-format=json-render-diagnostics"]
    try:
        done = subprocess.run(command, cwd=root, stdout=subprocess.PIPE, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        raise processes.Failure("`cargo build --release` failed; --ftx PATH uses an existing program") from None
    found = [json.loads(line).get("executable") for line in done.stdout.splitlines() if line.startswith("{")]
    return next(path for path in found if path and os.path.basename(path) == "ftx")


def usable(given, base, left_out):
    """The peers that are installed and work; `left_out` gets the reason for each of the others."""
    if given.install:
        peers.install([peers.ALL[name] for name in given.chosen])
    usable_peers = []
    for name in given.chosen:
        peer, why = peers.ALL[name], None
        try:
            why = peer.missing() or peer.prepare(base)
        except (processes.Failure, OSError, subprocess.SubprocessError) as error:
            why = str(error)
        if why:
            left_out[name] = why
            log_line(f"Without {name}: {why}")
        else:
            usable_peers.append(peer)
    return usable_peers


def once(peer, workload, link, base, durable, seconds):
    """One run: wait for the receiver, time the sender and the receiver, then compare the result, untimed."""
    into, scratch = os.path.join(base, "dst"), os.path.join(base, "run")
    # One large file is one inode and many blocks: remove it at once.
    workloads.clear(into, "disk" if durable and workload.files > 1 else "memory")
    workloads.clear(scratch, "memory")
    if durable:
        subprocess.run(["sync", "-f", base], check=True)  # so that no peer is charged for earlier writes
    log = {end: os.path.join(scratch, end + ".log") for end in ("recv", "send", "link")}
    plan = peer.plan(peers.Run(workload, into, link.address, scratch, durable))
    processes.reset_own_peak()
    try:
        receive = [link.receiver(command) for command in plan.receive]
        receivers = processes.pipeline(receive, stdout=plan.receive_to, log=log["recv"], cwd=plan.cwd)
        port = plan.port or processes.until("no port", lambda: announced(log["recv"]), receivers, log=log["recv"])
        first = receivers[0].pid
        processes.until("receiver", lambda: processes.listens(first, port), receivers, log=log["recv"])
        commands = [link.sender(command) for command in plan.send(*link.connect(port, log["link"]))]
        all_processes = list(receivers)
        with processes.Watch(all_processes, seconds) as watch:
            start = time.perf_counter()
            senders = processes.pipeline(commands, stdin=plan.send_from, log=log["send"])
            all_processes += senders
            failed = [process for process in senders if process.wait()]
            if not plan.daemon:
                if failed:
                    for process in receivers:
                        process.kill()
                failed += [process for process in receivers if process.wait()]
                for command in plan.after if not failed else ():
                    receivers += processes.pipeline([command], log=log["recv"])
                    all_processes.append(receivers[-1])
                    failed += [receivers[-1]] if receivers[-1].wait() else []
            took = time.perf_counter() - start
        if plan.daemon:
            receivers[0].stop()
        if watch.late:
            raise processes.Failure(f"not done after {seconds:.0f} s")
        if failed:
            said = processes.last_line(log["send"]) or processes.last_line(log["recv"])
            raise processes.Failure(f"{failed[0].name} ended with {failed[0].code}{said}")
    finally:
        processes.kill_all()
        link.disconnect()
    wrong = workloads.difference(workload, into)
    if wrong:
        raise processes.Failure("wrong result: " + wrong)
    ends = {"send": senders, "recv": receivers}
    return {"seconds": took, "cpu": {end: sum(each.cpu for each in ends[end]) for end in ends},
            "peak": {end: sum(each.peak for each in ends[end]) for end in ends}}


def announced(log):
    """The port in the first line of ftx, once it is complete."""
    with open(log) as lines:
        line = lines.readline()
    if not line.startswith("Listening on ") or not line.endswith("\n"):
        return None
    return int(line.split()[2].rstrip(".").rpartition(":")[2])


def named(kind, where):
    return kind if where == "memory" else f"{kind}@{where}"


def compare(kind, where, usable_peers, given, base):
    """All rounds of one workload: every peer once per round, in rotating order."""
    selected = [peer for peer in usable_peers if peer.applies(kind, where)]
    workload = workloads.make(kind, where, base, given.scale, given.tree)
    durable, case = where == "disk", named(kind, where)
    results = {peer.name: {"title": peer.title(kind), "promise": peer.promise(durable), "runs": [], "problem": None}
               for peer in selected}
    width = max(len(peer.name) for peer in selected)
    with links.link_for(where) as link:
        place = "on disk, durable" if durable else "in memory"
        description = f"{workload.description}, {place}, {link.description}"
        log_line(f"{case}: {description}")
        for number in range(given.rounds):
            turn = number % len(selected)
            for peer in selected[turn:] + selected[:turn]:
                result = results[peer.name]
                slow = result["runs"] and result["runs"][-1]["seconds"] > given.patience
                if result["problem"] or slow:
                    continue
                label = f"  {case} {number + 1}/{given.rounds} {peer.name:{width}}"
                try:
                    run = once(peer, workload, link, base, durable, given.timeout)
                except processes.Failure as failure:
                    result["problem"] = str(failure)
                    log_line(f"{label}  {failure}")
                else:
                    result["runs"].append(run | {"round": number})
                    log_line(f"{label}  {run['seconds']:8.3f} s")
    return {"case": case, "workload": kind, "where": where, "description": description, "files": workload.files,
            "bytes": workload.bytes, "baseline": peers.BASELINE[kind], "peers": results}


def measure(given, outcome):
    """Fills `outcome` incrementally, so that complete workloads are reported after an interruption."""
    ftx = peers.ALL["ftx"]
    if "ftx" in given.chosen:
        ftx.program = built(given.ftx)
    if not os.path.isdir(given.memory):
        raise processes.Failure(f"{given.memory} is not there; --memory DIR names a file system in memory")
    bases = [tempfile.mkdtemp(prefix="ftx-bench-", dir=given.memory)]
    try:
        usable_peers = usable(given, bases[0], outcome["left_out"])
        outcome["facts"] = report.facts(usable_peers, given.memory, given.disk)
        if given.disk:
            bases.append(tempfile.mkdtemp(prefix="ftx-bench-", dir=given.disk))
        for kind, where in given.cases:
            try:
                if not any(peer.applies(kind, where) for peer in usable_peers):
                    raise processes.Failure("no peer supports it")
                outcome["cases"].append(compare(kind, where, usable_peers, given, bases[where == "disk"]))
            except (processes.Failure, workloads.Unavailable) as failure:
                case = named(kind, where)
                outcome["left_out"][case] = str(failure)
                log_line(f"Without {case}: {failure}")
    finally:
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, signal.SIG_IGN)
        processes.kill_all()
        for peer in peers.ALL.values():
            peer.close()
        for base in bases:
            shutil.rmtree(base, ignore_errors=True)


def write_outputs(given, outcome):
    """Writes the requested outputs."""
    for case in outcome["cases"]:
        report.summarise(case)
    text = report.markdown(outcome)
    if given.markdown:
        peers.write(given.markdown, text)
    else:
        print(text, end="")
    if given.out:
        peers.write(given.out, json.dumps(outcome, indent=1) + "\n")
    if given.svg:
        peers.write(given.svg, chart.draw(outcome))


def ended(number, _frame):
    raise KeyboardInterrupt(signal.Signals(number).name)


def main():
    given = arguments()
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, ended)
    outcome = {"settings": {"rounds": given.rounds, "scale": given.scale}, "facts": {}, "left_out": {}, "cases": []}
    try:
        measure(given, outcome)
    except KeyboardInterrupt:
        log_line("Stopped; the complete workloads follow.")
        outcome["left_out"]["the rest"] = "interrupted"
    except processes.Failure as failure:
        log_line(f"compare.py: {failure}")
        return 1
    if outcome["cases"]:
        write_outputs(given, outcome)
    if "the rest" in outcome["left_out"]:
        return 130
    return int(not outcome["cases"] or any(case["peers"].get("ftx", {}).get("problem") for case in outcome["cases"]))


if __name__ == "__main__":
    sys.exit(main())
