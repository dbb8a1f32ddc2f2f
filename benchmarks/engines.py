"""Compare expected rates of MLX and llama.cpp with published ones: first forecasts, fitted half, held-out half.

python benchmarks/engines.py
"""

from __future__ import annotations

import statistics

from mpsprobe.knowledge import chips, engines
from mpsprobe.knowledge.engines import PublishedRate


def expected(point: PublishedRate) -> float:
    """Return the tokens per second that the engine's constants predict for a published rate's chip and model."""
    chip = chips.find(point.chip)
    assert chip is not None
    of_cores = [one for one in chip.variants if one.gpu_cores == point.gpu_cores] or chip.variants
    bandwidth = max(variant.bandwidth_gbs for variant in of_cores) * 1e9
    engine = engines.engine(point.engine)
    kind = {"mixture": point.mixture, "hybrid": point.hybrid}
    return 1 / engine.seconds_per_token(point.chip, bandwidth, point.params_b * 1e9, point.bits, **kind)


def main() -> None:
    """Print a table of the distance of published rates from forecasts, by engine and kind of point."""
    columns = ["engine", "rates", "points", "median ratio", "median factor", "within 1.3", "in the range"]
    print(f"| {' | '.join(columns)} |")  # noqa: T201
    print("|---|---|---|---|---|---|---|")  # noqa: T201
    for name in ("MLX", "llama.cpp"):
        points = engines.points(name)
        later = [one for one in points if one.first is not None]
        for added in dict.fromkeys(one.added for one in later):
            for label, chosen in classes([one for one in later if one.added == added]):
                show(
                    name,
                    f"added {added}, first forecast: {label}",
                    [(one, one.first or 0.0) for one in chosen],
                )
        for label, chosen in [*classes(points), ("all", points)]:
            for half in (False, True):
                rows = [(one, expected(one)) for one in chosen if one.held_out == half]
                show(name, f"{label}, {'held out' if half else 'fitted'}", rows)


def classes(points: list[PublishedRate]) -> list[tuple[str, list[PublishedRate]]]:
    """Return points by class: dense models and mixtures of experts, each with all its quantisations."""
    kinds = [
        ("dense", [one for one in points if not one.mixture]),
        ("mixtures", [one for one in points if one.mixture]),
    ]
    return [(label, chosen) for label, chosen in kinds if chosen]


def show(name: str, label: str, rows: list[tuple[PublishedRate, float]]) -> None:
    """Print one row of the table: how far published rates are from the rates given beside them, by today's range."""
    engine = engines.engine(name)
    ratios = [point.tokens_per_second / rate for point, rate in rows]
    factors = [max(ratio, 1 / ratio) for ratio in ratios]
    ranges = [engine.range(mixture=point.mixture) for point, _ in rows]
    inside = sum(low <= ratio <= high for ratio, (low, high) in zip(ratios, ranges, strict=True))
    close = sum(factor <= 1.3 for factor in factors)
    print(  # noqa: T201
        f"| {name} | {label} | {len(rows)} | {statistics.median(ratios):.2f} | {statistics.median(factors):.2f} "
        f"| {close} | {inside} |"
    )


if __name__ == "__main__":
    main()
