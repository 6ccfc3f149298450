"""Format numbers and intervals for the report."""


def percent(value: float | None, decimals: int = 1) -> str:
    """``81.2 %`` (with a non-breaking space), or a dash for None."""
    return "–" if value is None else f"{100 * value:.{decimals}f}\u00a0%"


def capital(name: str) -> str:
    """Name of a metric with an upper-case first letter, for titles."""
    return name[:1].upper() + name[1:]


def percentage_points(value: float | None) -> str:
    """``+0.4`` or ``−1.2``: a difference of two percentages; a dash for None."""
    if value is None:
        return "–"
    return f"{100 * value:+.1f}".replace("-", "−").replace("+0.0", "0.0").replace("−0.0", "0.0")


def times(value: float | None) -> str:
    """``0.52×``, or a dash for None."""
    return "–" if value is None else f"{value:.2f}×"


def interval(value: tuple[float, float] | None, scale: float = 1, decimals: int = 2) -> str:
    """``0.50–0.54``, or nothing for None."""
    return "" if value is None else f"{scale * value[0]:.{decimals}f}–{scale * value[1]:.{decimals}f}"


def interval_points(value: tuple[float, float] | None) -> str:
    """``−2.1 … 0.3``: an interval of a difference of two percentages, or nothing for None."""
    return "" if value is None else f"{percentage_points(value[0])} … {percentage_points(value[1])}"


def signed_percent(value: float | None) -> str:
    """``+4 %`` or ``−3 %``, or a dash for None."""
    return "–" if value is None else f"{100 * value:+.0f}\u00a0%".replace("-", "−")


def verdict(interval: tuple[float, float] | None) -> str:
    """Whether the interval of a difference is ``above`` 0, ``below`` 0 or includes it (``level``); a dash for None."""
    if interval is None:
        return "–"
    return "above" if interval[0] > 0 else "below" if interval[1] < 0 else "level"


def colour(interval: tuple[float, float] | None) -> str:
    """CSS class of a difference: ``good`` or ``bad`` if its interval excludes 0, else empty."""
    return {"above": "good", "below": "bad"}.get(verdict(interval), "")
