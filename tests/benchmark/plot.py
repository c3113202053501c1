"""The picture of the main measurement: throughput and p99 over the writes in flight."""

from __future__ import annotations

from pathlib import Path
from typing import Any

COLOURS = {"riteraft": "#0b6e99", "pysyncobj": "#d9822b", "pysyncobj_batched": "#8a6bbf"}
PANELS = (
    ("writes_per_second", "acknowledged writes a second", "more is better"),
    ("p99_ms", "p99 latency, ms", "less is better"),
)


def draw(levels: list[dict[str, Any]], names: dict[str, str], title: str, small: str, file: Path) -> None:
    """Draw the levels of one run, with these words for each system; the suffix decides between PNG and SVG."""
    # Here, because the test suite's environment has none of it. Without pyplot there is no state and no display.
    from matplotlib.figure import Figure
    from matplotlib.patheffects import withStroke
    from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

    figure = Figure(figsize=(10, 5), dpi=160, layout="constrained")
    figure.suptitle(title, fontsize=12, fontweight="bold", x=0.01, ha="left")
    figure.supxlabel(small, fontsize=8, color="#666666", x=0.01, ha="left")
    for axes, (field, label, hint) in zip(figure.subplots(1, 2), PANELS, strict=True):
        for name, words in names.items():
            points = [(level["in_flight"], level[name][field]) for level in levels if name in level]
            if not points:
                continue

            across, up = zip(*points, strict=True)
            axes.plot(across, up, marker="o", markersize=5, linewidth=2, color=COLOURS[name], label=words)
            for x, y in points:
                others = [
                    level[other][field]
                    for level in levels
                    for other in names
                    if level["in_flight"] == x and other in level
                ]
                # Of those at one place the uppermost has its figure above, the lowest below, one between at its side.
                offset, across_from, up_from = (
                    ((0, 7), "center", "bottom")
                    if y == max(others)
                    else ((0, -7), "center", "top")
                    if y == min(others)
                    else ((8, 0), "left", "center")
                )
                axes.annotate(
                    _short(y),
                    (x, y),
                    xytext=offset,
                    textcoords="offset points",
                    ha=across_from,
                    va=up_from,
                    fontsize=8,
                    color=COLOURS[name],
                    path_effects=[withStroke(linewidth=2.5, foreground="white")],  # lines may pass behind it
                    zorder=5,
                )

        axes.set_xscale("log", base=2)
        axes.set_yscale("log")
        axes.margins(x=0.08, y=0.14)
        axes.set_xticks([level["in_flight"] for level in levels])
        axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:,.0f}"))
        axes.xaxis.set_minor_locator(NullLocator())
        axes.yaxis.set_major_locator(LogLocator(base=10, subs=(1, 2, 5)))
        axes.yaxis.set_major_formatter(FuncFormatter(lambda y, _: _short(y)))
        axes.yaxis.set_minor_locator(NullLocator())
        axes.grid(True, which="major", color="#e5e5e5", linewidth=0.8)
        axes.set_axisbelow(True)
        axes.spines[["top", "right"]].set_visible(False)
        axes.set_xlabel("writes in flight")
        axes.set_title(f"{label} ({hint})", fontsize=10, loc="left")
        axes.legend(fontsize=8, loc="best", framealpha=0.9, edgecolor="none")

    figure.savefig(file)


def _short(value: float) -> str:
    if value >= 1000:
        return f"{value / 1000:.{0 if value >= 100_000 else 1}f}".removesuffix(".0") + " k"

    return f"{value:.0f}" if value >= 10 else f"{value:.2g}"
