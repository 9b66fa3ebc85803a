"""The promises of the tracing engine: the same answers as the slow reference, and what they cost.

Names that ``figures`` carries, by result file. EPE is in pixels of the frames.

engine.json, engine_cuda.json (both of benchmarks/tracing.py, the second on an accelerator)
    cpu, cuda         {rows, agreement, costs} of that device: rows as tracing_rows.Row.as_dict,
                      agreement by layout, seconds, tokens and GFLOP a query by number of queries
    memory            peak and promise, in GB, of calls in processes of their own
    minutes           of the whole command
engine_orders.json (a nano checkpoint on held-out hard scenes)
    orders            {after, random, before, clean}: EPE, interval, paired difference to the others
engine_zoom.json (the nano checkpoint that comes with the repository, same scenes, with eight guises
of the frames and without patches that are kept hidden; engine_zoom_plain.json is without either)
    scales            by number of scales, and of the baselines: EPE; right_epe_px over the points
                      whose arg-max patch is right, whose read-out floor is right_floor_px
engine_search.json, as before
    search            share of queries whose coarse-to-fine arg-max is that of the full read-out, by
                      what is revealed and the number of masks
engine_silent.json, as before; no promise, only told
    attempts          share of queries by the attempt that flipped a code
"""

import math
from functools import cache, partial
from itertools import pairwise
from statistics import median

from benchmarks.claim import Claim, Figure, NotMeasuredError
from benchmarks.claims_main import from_file, plain
from benchmarks.claims_official import on_the_spot, tests_pass
from benchmarks.exact import zoomed_oracle_epe
from benchmarks.tracing_layouts import Layout, random_model
from benchmarks.tracing_rows import BOTH, Bench, Case, Row
from tracing.config import TracerConfig

TABLE, CUDA = "engine.json", "engine_cuda.json"
ORDERS, ZOOM, SEARCH = "engine_orders.json", "engine_zoom.json", "engine_search.json"
COMMANDS = {
    TABLE: f"python benchmarks/tracing.py --quick --device cpu --json benchmarks/results/{TABLE}",
    CUDA: f"python benchmarks/tracing.py --device cuda --json benchmarks/results/{CUDA}",
    ORDERS: "python benchmarks/measure_engine.py orders",
    ZOOM: "python benchmarks/measure_engine.py zoom --run checkpoints/lras_nano --masks 2 "
    "--crop-masks 2 --augmentations 8 --keep-hidden 0",
    SEARCH: "python benchmarks/measure_engine.py search",
}
SMALL = (Layout("K = 1", "lras_nano", 32), Layout("K = 4", "lras_micro", 64))
RISE = 1.1  # flat or falling: no count of queries may cost more than the one before by a tenth


# --- on the spot --------------------------------------------------------------------------------


@cache
def compared_on_the_spot() -> list[Row]:
    """Every query of small layouts by the engine and by the slow reference."""
    found = []
    for layout in SMALL:
        bench = Bench(layout, random_model(layout))
        for read_out in ("first", "all"):
            found.append(bench.measure(Case(layout, read_out, "exact", 12, slow_queries=12)))
    return found


def worst_difference_here() -> Figure:
    rows = compared_on_the_spot()
    return Figure(max(row.worst_difference for row in rows), count_of(rows))


def argmax_that_differ_here() -> Figure:
    rows = compared_on_the_spot()
    return Figure(sum(row.compared - row.same_argmax for row in rows), count_of(rows))


def count_of(rows: list[Row]) -> str:
    peak = min(row.smallest_peak_nats for row in rows)
    return f"{sum(row.compared for row in rows)} queries, peaks from {peak:.1g} nats"


def oracle_zoom() -> Figure:
    two, floor = zoomed_oracle_epe()
    return Figure(two / floor, f"{two:.3f} px of {floor:.3f} px")


# --- out of result files ------------------------------------------------------------------------


def row_of(figures: dict, device: str = "cpu", **named: str) -> dict:
    """The one row with these names.

    Raises:
        NotMeasuredError: the table is not of this device.
    """
    if device not in figures:
        raise NotMeasuredError(f"no {device} in the table")
    rows = figures[device]["rows"]
    (row,) = [row for row in rows if all(row[key] == value for key, value in named.items())]
    return row


def worst_of_allowed(layout: str):
    def read(figures: dict) -> Figure:
        own = figures["cpu"]["agreement"][layout]
        return Figure(own["worst_of_allowed"], f"peaks from {own['smallest_peak_nats']:.1g} nats")

    return read


def same_argmax(layout: str, fewest: int):
    """Share of queries; NaN if fewer than promised were compared."""

    def read(figures: dict) -> Figure:
        own = figures["cpu"]["agreement"][layout]
        share = own["same_argmax"] / own["queries"] if own["queries"] >= fewest else math.nan
        return Figure(share, f"{own['same_argmax']} of {own['queries']} queries")

    return read


def of_bound(read_out: str):
    def read(figures: dict) -> Figure:
        row = row_of(figures, layout="large", read_out=read_out, option="exact", spread="scattered")
        return Figure(row["efficiency"], f"{row['ratio']:.2f}x of {row['bound']:.2f}x")

    return read


def speed_up(spread: str):
    """Of ``first`` with both savings; ``all`` beside it.

    A row measures the slow reference on one to a few queries beside its own turns, the exact row
    on 32: the figure is the smaller of the two quotients.
    """

    def read(figures: dict) -> Figure:
        large = partial(row_of, figures, layout="large")
        first, every = (
            large(read_out=read_out, option=BOTH, spread=spread) for read_out in ("first", "all")
        )
        exact = large(read_out="first", option="exact", spread="scattered")
        of_many = median(exact["slow_seconds"]) / median(first["fast_seconds"])
        note = f"{first['queries']} queries, bound {first['bound']:.1f}x; slow time extrapolated: "
        note += f"{first['ratio']:.2f}x by the row's own slow queries, {of_many:.2f}x by the "
        note += f"{exact['compared']} of the exact row; all: {every['ratio']:.2f}x of "
        note += f"{every['bound']:.1f}x, {every['queries']} queries"
        return Figure(min(first["ratio"], of_many), note)

    return read


def worst_rise(layout: str):
    """Largest cost of a query over that among fewer queries."""

    def read(figures: dict) -> Figure:
        points = [point for point in figures["cpu"]["costs"] if point["layout"] == layout]
        points.sort(key=lambda point: point["queries"])
        seconds = [point["seconds"] for point in points]
        rises = [after / before for before, after in pairwise(seconds)]
        first, last = points[0], points[-1]
        note = f"{first['queries']} to {last['queries']} queries: "
        note += f"{1e3 * first['seconds']:.1f} to {1e3 * last['seconds']:.1f} ms each"
        return Figure(max(rises), note)

    return read


def worst_memory(figures: dict) -> Figure:
    worst = max(figures["memory"], key=lambda call: call["share_of_promise"])
    note = f"{worst['peak_gb']:.2f} of {worst['promised_gb']:.2f} GB, "
    note += f"max_tokens {worst['max_tokens']}, {len(figures['memory'])} calls"
    return Figure(worst["share_of_promise"], note)


def worst_search(one_mask: bool):
    def read(figures: dict) -> Figure:
        found = {
            name.split(",")[0]: own["same_argmax_share"]
            for name, own in figures["search"].items()
            if name.endswith(", 1 masks") == one_mask
        }
        return Figure(min(found.values()), ", ".join(f"{k} {v:.4f}" for k, v in found.items()))

    return read


def default_order() -> str:
    """The name that ``engine_orders.json`` has for what TracerConfig does by default."""
    cfg = TracerConfig()
    return "random" if cfg.order0 == "random" else cfg.revealed


def surely_behind(figures: dict) -> Figure:
    """By how many px another order surely beats the default: the paired interval's lower end.

    The largest over all others; 0 or less says that none does.
    """
    own, orders = default_order(), figures["orders"]
    lower = {name: orders[own][f"minus_{name}"]["ci95_px"][0] for name in orders if name != own}
    note = ", ".join(f"{name} {each['epe_px']:.3f}" for name, each in orders.items())
    low, high = orders[own][f"minus_{max(lower, key=lower.__getitem__)}"]["ci95_px"]
    return Figure(max(lower.values()), f"{note}; the nearest: {low:.3f} to {high:.3f} px")


def num_mask_seeds(figures: dict) -> Figure:
    return Figure(len(figures["mask_seeds"]))


def classical_beside(figures: dict) -> Figure:
    epe = {name: figures["scales"][name]["epe_px"] for name in ("dis", "dis_x4")}
    note = ", ".join(f"{name} {value:.2f} px" for name, value in epe.items())
    return Figure(sum(map(math.isfinite, epe.values())), note)


def zoom_ratio(figures: dict) -> Figure:
    epe = {name: own["epe_px"] for name, own in figures["scales"].items()}
    note = ", ".join(f"{name}: {value:.2f}" for name, value in epe.items())
    return Figure(epe["3"] / epe["1"], note + " px")


def zoom_where_right(figures: dict) -> Figure:
    """Two scales over the one-scale arg-max floor, where the arg-max patch is right."""
    two, floor = figures["scales"]["2"]["right_epe_px"], figures["right_floor_px"]
    note = f"{two:.3f} of {floor:.3f} px, {figures['right_points']} points"
    return Figure(two / floor, note)


def on_accelerator(figures: dict) -> Figure:
    row = row_of(figures, "cuda", layout="large", read_out="first", option=BOTH, spread="scattered")
    return Figure(row["points_per_second"], f"{row['ratio']:.1f}x of {row['bound']:.1f}x")


# --- the promises -------------------------------------------------------------------------------


def table_claims() -> list[Claim]:
    claim = partial(from_file, TABLE, "engine")
    return [
        claim("nano: worst |delta KL| / allowed", worst_of_allowed("nano"), "<=", 1),
        claim("nano: same arg-max, 1,000 queries", same_argmax("nano", 1000), ">=", 0.999),
        claim("large: worst |delta KL| / allowed", worst_of_allowed("large"), "<=", 1),
        claim("large: same arg-max, 32 queries", same_argmax("large", 32), "==", 1),
        claim("exact, first: speed-up / FLOP bound", of_bound("first"), ">=", 0.7),
        claim("exact, all: speed-up / FLOP bound", of_bound("all"), ">=", 0.7),
        claim("both savings, first, 32 scattered: slow / fast", speed_up("scattered"), ">=", 8),
        claim("both savings, first, dense: slow / fast", speed_up("dense"), ">=", 10),
        claim("nano: largest rise of a query's cost", worst_rise("nano"), "<=", RISE),
        claim("large: largest rise of a query's cost", worst_rise("large"), "<=", RISE),
        claim("peak memory / promised", worst_memory, "<=", 1),
        claim("the quick table", plain("minutes"), "<", 10, "min"),
        from_file(CUDA, "engine", "on an accelerator", on_accelerator, ">", 0, "points/s"),
    ]


def model_claims() -> list[Claim]:
    orders, zoom = partial(from_file, ORDERS, "orders"), partial(from_file, ZOOM, "zoom")
    search = partial(from_file, SEARCH, "coarse to fine")
    return [
        search("same arg-max as full", worst_search(one_mask=False), ">=", 0.99),
        search("same arg-max as full, one mask", worst_search(one_mask=True), ">=", 0.99),
        orders("no order surely beats the default, by", surely_behind, "<=", 0, "px"),
        orders("points", plain("num_points"), ">=", 128),
        orders("mask seeds", num_mask_seeds, "==", 3),
        zoom("EPE(3 scales) / EPE(1 scale)", zoom_ratio, "<=", 0.5),
        zoom("points", plain("num_points"), ">=", 128),
        zoom("DIS and enlarged DIS on the same points", classical_beside, "==", 2),
        zoom("arg-max right: EPE(2 scales) / floor of one", zoom_where_right, "<", 1),
        on_the_spot("oracle, sub-cell: EPE(2 scales) / floor of one", oracle_zoom, "<", 1),
    ]


def quick_claims() -> list[Claim]:
    return [
        on_the_spot("small layouts: worst |delta KL| / allowed", worst_difference_here, "<=", 1),
        on_the_spot("small layouts: arg-max that differ", argmax_that_differ_here, "==", 0),
        tests_pass("engine", "tests/test_tracing_engine.py"),
        tests_pass("crops and their maps", "tests/test_tracing_crops.py"),
        tests_pass("bad input", "tests/test_tracing_inputs.py"),
    ]


CLAIMS = [*quick_claims(), *table_claims(), *model_claims()]
