"""Lengths of time and sizes as people and Nextflow write them."""

import re

UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
SIZES = {"B": 1, "KB": 2**10, "MB": 2**20, "GB": 2**30, "TB": 2**40}


def duration_text(seconds: float) -> str:
    """A length of time in at most two units: 40 s, 12 min, 3 h 20 min, 2 d 4 h."""
    if seconds < 60:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    if minutes < 60:
        return f"{minutes} min"
    hours, minutes = divmod(minutes, 60)
    if hours < 48:
        return f"{hours} h {minutes} min" if minutes and hours < 10 else f"{round(hours + minutes / 60)} h"
    days, hours = divmod(round(hours + minutes / 60), 24)
    return f"{days} d {hours} h" if hours and days < 10 else f"{days} d"


def read_duration(text: str) -> float | None:
    """Seconds of what Nextflow writes, such as `1h 2m 3s` or `812ms`; None for `-` and all else."""
    parts = re.findall(r"(\d+(?:\.\d+)?)\s*(ms|s|m|h|d)\b", text)
    return sum(float(number) * UNITS[unit] for number, unit in parts) if parts else None


def read_size(text: str) -> float | None:
    """Bytes of what Nextflow writes, such as `1.4 GB`; None for `-` and all else."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([KMGT]?B)", text.strip())
    return float(found[1]) * SIZES[found[2]] if found else None
