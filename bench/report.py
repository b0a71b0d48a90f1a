"""Medians and Markdown tables from the measurements, and facts about the machine."""

import datetime
import os
import platform
import statistics

# CPU flags that affect the speed of digests and checksums.
FLAGS = ("sse4_2", "pclmulqdq", "ssse3", "avx2", "avx512f", "avx512bw", "avx512vl", "vaes", "vpclmulqdq", "aes",
         "sha_ni", "asimd", "sve", "crc32", "pmull", "sha2")


def facts(usable_peers, memory, disk):
    cpu = cpu_info()
    flags = (cpu.get("flags") or cpu.get("Features") or "").split()
    found = {
        "date": datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%d %H:%M UTC"),
        "cpu": cpu.get("model name") or platform.machine(),
        "cores": len(os.sched_getaffinity(0)),
        "cpu_flags": [flag for flag in FLAGS if flag in flags],
        "memory_bytes": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        "kernel": f"{platform.system()} {platform.release()}",
        "in_memory_on": filesystem(memory),
        "load_before": round(os.getloadavg()[0], 2),
        "versions": {peer.name: peer.version() for peer in usable_peers},
    }
    if disk:
        found["disk"] = filesystem(disk)
    return found


def cpu_info():
    try:
        with open("/proc/cpuinfo") as lines:
            pairs = (line.partition(":") for line in lines)
            found = {}
            for name, _, value in pairs:
                found.setdefault(name.strip(), value.strip())
            return found
    except OSError:
        return {}


def filesystem(path):
    """The type of the file system of `path`: that of the longest mount point above it."""
    best = ("", "unknown")
    path = os.path.realpath(path)
    try:
        with open("/proc/self/mounts") as mounts:
            for line in mounts:
                _, point, kind = line.split()[:3]
                if (path + "/").startswith(point.rstrip("/") + "/") and len(point) >= len(best[0]):
                    best = (point, kind)
    except OSError:
        pass
    return best[1]


def spread(values):
    if len(values) == 1:
        return {"median": values[0], "lower": values[0], "upper": values[0]}
    lower, middle, upper = statistics.quantiles(values, n=4, method="inclusive")
    return {"median": middle, "lower": lower, "upper": upper}


def summarise(case):
    """Adds to each peer its medians, and the median ratio to the baseline of the same round."""
    base = case["peers"].get(case["baseline"])
    usual = {} if not base or base["problem"] else {run["round"]: run["seconds"] for run in base["runs"]}
    for result in case["peers"].values():
        runs = [] if result["problem"] else result["runs"]
        if not runs:
            continue
        ratios = [run["seconds"] / usual[run["round"]] for run in runs if run["round"] in usual]
        result["summary"] = {
            "rounds": len(runs),
            "seconds": spread([run["seconds"] for run in runs]),
            "ratio": statistics.median(ratios) if ratios else None,
            **{what: {end: statistics.median([run[what][end] for run in runs]) for end in ("send", "recv")}
               for what in ("cpu", "peak")},
        }


def ranked(case):
    """The peers with a result, fastest first."""
    done = [result for result in case["peers"].values() if "summary" in result]
    return sorted(done, key=lambda result: result["summary"]["seconds"]["median"])


def machine(outcome):
    """One line about the machine and one about the programs."""
    about = outcome["facts"]
    ftx = about["versions"].get("ftx", "")
    return (f"{about['cpu']}, {about['cores']} cores, {about['memory_bytes'] / (1 << 30):.0f} GiB, "
            f"{about['kernel']}; {ftx + ', ' if ftx else ''}{about['date']}")


def markdown(outcome):
    about, settings = outcome["facts"], outcome["settings"]
    lines = [machine(outcome) + ".", "",
             f"Load before: {about['load_before']}. Processor: {' '.join(about['cpu_flags']) or 'no flags of note'}. "
             f"Memory is {about['in_memory_on']}" + (f", disk is {about['disk']}." if "disk" in about else "."), "",
             "Versions: " + "; ".join(dict.fromkeys(filter(None, about["versions"].values()))) + ".", ""]
    rounds = settings["rounds"]
    lines += [f"{rounds} round{'s' * (rounds > 1)}, scale {settings['scale']:g}. Seconds are medians with their "
              "quartiles. A ratio is the median over the rounds of the time divided by the baseline's in the same "
              "round: below 1 is faster. CPU is user and system time of both ends, peak is the resident memory of "
              "the sending and the receiving end.", ""]
    for case in outcome["cases"]:
        lines += table(case, rounds)
    if outcome["left_out"]:
        lines += ["Left out: " + "; ".join(f"{name} ({why})" for name, why in outcome["left_out"].items()) + ".", ""]
    return "\n".join(lines)


def table(case, rounds):
    base = case["peers"].get(case["baseline"])
    against = base["title"] if base else "baseline"
    lines = [f"### {case['case']}: {case['description']}", "",
             f"| | seconds | quartiles | MB/s | × {escape(against)} | CPU s, send + receive | peak MB, send / receive "
             "| checks |", "| --- | ---: | ---: | ---: | ---: | ---: | ---: | --- |"]
    for result in ranked(case):
        sums = result["summary"]
        time, cpu, peak = sums["seconds"], sums["cpu"], sums["peak"]
        name = escape(result["title"])
        name = f"**{name}**" if result["title"] == "ftx" else name
        name += f" ({sums['rounds']} of {rounds} rounds)" if sums["rounds"] < rounds else ""
        ratio = f"{sums['ratio']:.2f}" if sums["ratio"] else "–"
        lines.append(f"| {name} | {time['median']:.3f} | {time['lower']:.3f}–{time['upper']:.3f} "
                     f"| {rate(case, time['median'])} | {ratio} | {cpu['send']:.2f} + {cpu['recv']:.2f} "
                     f"| {peak['send'] / 1e6:.0f} / {peak['recv'] / 1e6:.0f} | {result['promise']} |")
    for result in case["peers"].values():
        if result["problem"]:
            lines.append(f"| {escape(result['title'])} | – | – | – | – | – | – "
                         f"| **disqualified**: {escape(result['problem'])} |")
    return lines + [""]


def rate(case, seconds):
    """Megabytes per second, with decimals for small values."""
    value = case["bytes"] / 1e6 / seconds
    return f"{value:,.{0 if value >= 20 else 1 if value >= 2 else 3}f}"


def escape(text):
    return text.replace("|", "\\|")
