"""The chart of the comparison: SVG bars of speed, for light and dark pages."""

from xml.sax.saxutils import escape

import report

WIDTH, LEFT, RIGHT = 820, 130, 640  # bars extend from LEFT to RIGHT; their labels follow
ROW, BAR, GAP = 23, 15, 24

# Plain rules instead of CSS variables, which some SVG renderers do not support.
STYLE = """
text { font: 13px system-ui, -apple-system, "Segoe UI", Roboto, "DejaVu Sans", sans-serif; fill: #1f2328; }
.title { font-size: 17px; font-weight: 600; } .group, .own { font-weight: 600; }
.soft { fill: #59636e; font-size: 12px; }
.page { fill: #ffffff; } .bar { fill: #b7c0cb; } .ours { fill: #0f7b6c; }
.whisker { stroke: #3d444d; stroke-width: 1.5; fill: none; }
@media (prefers-color-scheme: dark) {
  text { fill: #e6edf3; } .soft { fill: #9198a1; }
  .page { fill: #0d1117; } .bar { fill: #454d58; } .ours { fill: #2fb39f; } .whisker { stroke: #d1d7e0; }
}
"""


def draw(outcome):
    parts, y = [], 24
    parts.append(text(20, y + 6, "Speed of moving the same files: longer is better", "title"))
    y += 28
    rounds = outcome["settings"]["rounds"]
    caption = f"Medians of {rounds} rounds, with quartiles as whiskers. " if rounds > 1 else "One round. "
    parts.append(text(20, y, caption + "Each group has its own scale.", "soft"))
    y += 8
    for case in outcome["cases"]:
        rows = report.ranked(case)
        if rows:
            drawn, y = group(case, rows, y)
            parts += drawn
    y += 14
    for line in wrapped(report.machine(outcome), 125):
        parts.append(text(20, y, line, "soft"))
        y += 17
    height = y + 4
    return "\n".join([
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" height="{height}" '
        'role="img" aria-labelledby="what how">',
        '<title id="what">ftx and other programs that move files, compared</title>',
        f'<desc id="how">{escape(description(outcome))}</desc>',
        f"<style>{STYLE}</style>",
        f'<rect class="page" width="{WIDTH}" height="{height}" rx="8"/>', *parts, "</svg>", ""])


def group(case, rows, y):
    """One workload: its name, and a bar for each peer, scaled so that the longest one has the full width."""
    drawn = []
    y += GAP
    for line in wrapped(f"{case['case']}: {case['description']}", 115):
        drawn.append(text(20, y, line, "group"))
        y += 17
    y -= 6
    best = max(speed(case, row, "lower") for row in rows)  # the shorter the time, the higher the speed
    for row in rows:
        middle = y + BAR / 2
        ours = row["title"] == "ftx"
        at = {each: LEFT + (RIGHT - LEFT) * speed(case, row, each) / best for each in ("lower", "median", "upper")}
        drawn.append(text(LEFT - 10, middle + 4.5, row["title"], "own" if ours else "", "end"))
        drawn.append(f'<rect class="{"ours" if ours else "bar"}" x="{LEFT}" y="{y}" '
                     f'width="{max(at["median"] - LEFT, 1):.1f}" height="{BAR}" rx="2"/>')
        if at["lower"] - at["upper"] > 1:
            low, high = at["upper"], at["lower"]
            drawn.append(f'<path class="whisker" d="M{low:.1f} {middle - 4}v8M{low:.1f} {middle}H{high:.1f}'
                         f'M{high:.1f} {middle - 4}v8"/>')
        drawn.append(text(max(at["lower"], at["median"]) + 8, middle + 4.5, label(case, row), "own" if ours else ""))
        y += ROW
    return drawn, y


def speed(case, row, which):
    return case["bytes"] / row["summary"]["seconds"][which]


def label(case, row):
    seconds = row["summary"]["seconds"]["median"]
    return f"{report.rate(case, seconds)} MB/s, {seconds:.{3 if seconds < 0.1 else 2 if seconds < 10 else 0}f} s"


def description(outcome):
    groups = []
    for case in outcome["cases"]:
        peers = "; ".join(f"{row['title']} {label(case, row)}" for row in report.ranked(case))
        groups.append(f"{case['description']}: {peers}.")
    return " ".join(groups)


def wrapped(words, width):
    """Lines of at most `width` characters."""
    lines = [""]
    for word in words.split():
        if lines[-1] and len(lines[-1]) + len(word) >= width:
            lines.append("")
        lines[-1] = f"{lines[-1]} {word}".strip()
    return lines


def text(x, y, words, style="", anchor="start"):
    kind = f' class="{style}"' if style else ""
    side = f' text-anchor="{anchor}"' if anchor != "start" else ""
    return f'<text x="{x:.1f}" y="{y:.1f}"{kind}{side}>{escape(words)}</text>'
