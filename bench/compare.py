#!/usr/bin/env python3
"""Compares ftx with what else moves files, on one machine: the same work for each in turn, checked every time.

    bench/compare.py                              everything that runs in memory, 7 rounds
    bench/compare.py --scale 0.05 --rounds 2      a quick look
    bench/compare.py --disk /var/tmp              on that file system too, durably
    bench/compare.py --workloads one,small@delay  only these
    bench/compare.py --before PATH                this ftx and an earlier one in turn, and nothing else

Workloads are one, tree and small. As they are they run in memory over loopback; with @delay over 50 ms round trip, with
@gigabit over 1 Gbit/s (root only), with @far over both, with @disk durably on the file system of --disk. bench/README.md
tells the rest.
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


def say(text):
    print(text, file=sys.stderr, flush=True)


def arguments():
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = options.add_argument
    add("--rounds", type=int, default=7, metavar="N", help="how often each peer runs (default: 7)")
    add("--workloads", metavar="LIST", help=f"default: {USUAL}, and with --disk all three @disk")
    add("--peers", metavar="LIST", help=f"default: all of {','.join(peers.ALL)}")
    add("--scale", type=float, default=1.0, metavar="F", help="a part of the usual size, such as 0.05 (default: 1)")
    add("--ftx", metavar="PATH", help="this program instead of one built by `cargo build --release`")
    add("--before", metavar="PATH", help="an earlier ftx, the baseline of all ratios")
    add("--tree", metavar="DIR", help="the source tree to send (default: what cargo unpacked, at least 10,000 files)")
    add("--memory", default="/dev/shm", metavar="DIR", help="a file system in memory (default: /dev/shm)")
    add("--disk", metavar="DIR", help="a folder on a real file system for the workloads @disk")
    add("--install", action="store_true", help="install missing peers from Debian's packages first (root only)")
    add("--timeout", type=float, default=600, metavar="SECONDS", help="the most that one run may take (default: 600)")
    add("--patience", type=float, default=60, metavar="SECONDS",
        help="who needs longer for one run does not get another one of the same (default: 60)")
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
        options.error("--rounds and --scale have to be above 0")
    return given


def built(path):
    """The ftx to measure: the one given, or the one that cargo builds now."""
    if path:
        if not shutil.which(path):
            raise processes.Failure(f"{path} is not a program")
        return os.path.abspath(shutil.which(path))
    root = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    command = ["cargo", "build", "--release", "--message-format=json-render-diagnostics"]
    try:
        done = subprocess.run(command, cwd=root, stdout=subprocess.PIPE, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        raise processes.Failure("`cargo build --release` failed; --ftx PATH takes one that is built already") from None
    found = [json.loads(line).get("executable") for line in done.stdout.splitlines() if line.startswith("{")]
    return next(path for path in found if path and os.path.basename(path) == "ftx")


def usable(given, base, left_out):
    """The peers that are here and work; the others get a reason."""
    if given.install:
        peers.install([peers.ALL[name] for name in given.chosen])
    able = []
    for name in given.chosen:
        peer, why = peers.ALL[name], None
        try:
            why = peer.missing() or peer.prepare(base)
        except (processes.Failure, OSError, subprocess.SubprocessError) as error:
            why = str(error)
        if why:
            left_out[name] = why
            say(f"Without {name}: {why}")
        else:
            able.append(peer)
    return able


def once(peer, workload, link, base, durable, seconds):
    """One run: receiver ready, clock, sender, both done, clock; and then, unmeasured, whether everything arrived."""
    into, scratch = os.path.join(base, "dst"), os.path.join(base, "run")
    # A large file is one inode, and a lot of room.
    workloads.clear(into, "disk" if durable and workload.files > 1 else "memory")
    workloads.clear(scratch, "memory")
    if durable:
        subprocess.run(["sync", "-f", base], check=True)  # nobody pays for what others left behind
    log = {end: os.path.join(scratch, end + ".log") for end in ("recv", "send", "link")}
    plan = peer.plan(peers.Run(workload, into, link.address, scratch, durable))
    processes.forget_own_peak()
    try:
        receive = [link.receiver(command) for command in plan.receive]
        receivers = processes.pipeline(receive, stdout=plan.receive_to, log=log["recv"], cwd=plan.cwd)
        port = plan.port or processes.until("no port", lambda: announced(log["recv"]), receivers, log=log["recv"])
        first = receivers[0].pid
        processes.until("receiver", lambda: processes.listens(first, port), receivers, log=log["recv"])
        commands = [link.sender(command) for command in plan.send(*link.connect(port, log["link"]))]
        everyone = list(receivers)
        with processes.Watch(everyone, seconds) as watch:
            start = time.perf_counter()
            senders = processes.pipeline(commands, stdin=plan.send_from, log=log["send"])
            everyone += senders
            failed = [process for process in senders if process.wait()]
            if not plan.daemon:
                if failed:
                    for process in receivers:
                        process.kill()
                failed += [process for process in receivers if process.wait()]
                for command in plan.after if not failed else ():
                    receivers += processes.pipeline([command], log=log["recv"])
                    everyone.append(receivers[-1])
                    failed += [receivers[-1]] if receivers[-1].wait() else []
            took = time.perf_counter() - start
        if plan.daemon:
            receivers[0].stop()
        if watch.late:
            raise processes.Failure(f"not done after {seconds:.0f} s")
        if failed:
            said = processes.last_words(log["send"]) or processes.last_words(log["recv"])
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
    """The port in ftx's first line, when that is complete."""
    with open(log) as lines:
        line = lines.readline()
    if not line.startswith("Listening on ") or not line.endswith("\n"):
        return None
    return int(line.split()[2].rstrip(".").rpartition(":")[2])


def named(kind, where):
    return kind if where == "memory" else f"{kind}@{where}"


def compare(kind, where, able, given, base):
    """All rounds of one workload: every peer once in each, in an order that rotates."""
    playing = [peer for peer in able if peer.applies(kind, where)]
    workload = workloads.make(kind, where, base, given.scale, given.tree)
    durable, case = where == "disk", named(kind, where)
    results = {peer.name: {"title": peer.title(kind), "promise": peer.promise(durable), "runs": [], "problem": None}
               for peer in playing}
    width = max(len(peer.name) for peer in playing)
    with links.between(where) as link:
        place = "on disk, durable" if durable else "in memory"
        told = f"{workload.told}, {place}, {link.told}"
        say(f"{case}: {told}")
        for number in range(given.rounds):
            turn = number % len(playing)
            for peer in playing[turn:] + playing[:turn]:
                result = results[peer.name]
                slow = result["runs"] and result["runs"][-1]["seconds"] > given.patience
                if result["problem"] or slow:
                    continue
                label = f"  {case} {number + 1}/{given.rounds} {peer.name:{width}}"
                try:
                    run = once(peer, workload, link, base, durable, given.timeout)
                except processes.Failure as failure:
                    result["problem"] = str(failure)
                    say(f"{label}  {failure}")
                else:
                    result["runs"].append(run | {"round": number})
                    say(f"{label}  {run['seconds']:8.3f} s")
    return {"case": case, "workload": kind, "where": where, "told": told, "files": workload.files,
            "bytes": workload.bytes, "baseline": peers.BASELINE[kind], "peers": results}


def measure(given, outcome):
    """Fills `outcome` as it goes, so that what is done is told even when the rest is not."""
    ftx = peers.ALL["ftx"]
    if "ftx" in given.chosen:
        ftx.program = built(given.ftx)
    if not os.path.isdir(given.memory):
        raise processes.Failure(f"{given.memory} is not there; --memory DIR names a file system in memory")
    bases = [tempfile.mkdtemp(prefix="ftx-bench-", dir=given.memory)]
    try:
        able = usable(given, bases[0], outcome["left_out"])
        outcome["facts"] = report.facts(able, given.memory, given.disk)
        if given.disk:
            bases.append(tempfile.mkdtemp(prefix="ftx-bench-", dir=given.disk))
        for kind, where in given.cases:
            try:
                if not any(peer.applies(kind, where) for peer in able):
                    raise processes.Failure("no peer for it")
                outcome["cases"].append(compare(kind, where, able, given, bases[where == "disk"]))
            except (processes.Failure, workloads.Unavailable) as failure:
                case = named(kind, where)
                outcome["left_out"][case] = str(failure)
                say(f"Without {case}: {failure}")
    finally:
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, signal.SIG_IGN)
        processes.kill_all()
        for peer in peers.ALL.values():
            peer.close()
        for base in bases:
            shutil.rmtree(base, ignore_errors=True)


def tell(given, outcome):
    """Everything that was asked for, from what was measured."""
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
        say("Stopped; what follows is what was complete.")
        outcome["left_out"]["the rest"] = "stopped before its end"
    except processes.Failure as failure:
        say(f"compare.py: {failure}")
        return 1
    if outcome["cases"]:
        tell(given, outcome)
    if "the rest" in outcome["left_out"]:
        return 130
    return int(not outcome["cases"] or any(case["peers"].get("ftx", {}).get("problem") for case in outcome["cases"]))


if __name__ == "__main__":
    sys.exit(main())
