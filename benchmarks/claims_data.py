"""The promises of data at scale: nothing lost or drawn twice, and no waiting for it.

Names that ``figures`` carries, by result file.

data_ingest.json (benchmarks/data_ingest.py --quick)
    ratio             one entry a size, the default first: ratio of ingest's frames/s to those of
                      bare decoding and resizing of the same videos by the same pool; cpu_ratio
    kills             kills, files, files_that_differ from an undisturbed run's
data_loader.json (benchmarks/data_loader.py --quick)
    tokens            pairs_per_s_one_worker; ratio_to_webdataset_raw, _decoded: our pairs/s over
                      those of plain webdataset reading the same tar files
    resume            worst_s to the first batch after step 1,000,000
    memory            bytes_per_batch that the loader and a worker grow by
    scenes            worst_ratio of the generator's pairs/s to those a nano step takes
"""

from benchmarks.claim import Figure
from benchmarks.claims_main import from_file
from benchmarks.claims_official import tests_pass

INGEST, LOADER = "data_ingest.json", "data_loader.json"
COMMANDS = {
    INGEST: f"python benchmarks/data_ingest.py --quick --json benchmarks/results/{INGEST}",
    LOADER: f"python benchmarks/data_loader.py --quick --json benchmarks/results/{LOADER}",
}
FLAT_BYTES = 10.0  # a batch; ten thousand of them then cost less than a thousandth of a GB


def ingest_rate(figures: dict) -> Figure:
    """At the default size; the others are told."""
    first, *others = figures["ratio"]
    note = "; ".join(
        f"{own['size_px']} px {own['ratio']:.2f} [{own['ratio_min']:.2f}, {own['ratio_max']:.2f}], "
        f"of CPU time {own['cpu_ratio']:.2f}"
        for own in (first, *others)
    )
    return Figure(first["ratio"], note)


def kills(figures: dict) -> Figure:
    found = figures["kills"]
    note = f"{found['kills']} kills, {found['files']} files"
    return Figure(found["files_that_differ"] if found["kills"] >= 5 else float("nan"), note)


def token_rate(figures: dict) -> Figure:
    return Figure(figures["tokens"]["pairs_per_s_one_worker"], "2 x 1024 x 4 uint16 codes each")


def of_webdataset(figures: dict) -> Figure:
    tokens = figures["tokens"]
    worst, decoded = tokens["ratio_to_webdataset_raw_worst"], tokens["ratio_to_webdataset_decoded"]
    return Figure(
        tokens["ratio_to_webdataset_raw"], f"worst round {worst:.2f}; both decoding {decoded:.2f}"
    )


def first_batch(figures: dict) -> Figure:
    return Figure(figures["resume"]["worst_s"], f"of {figures['resume']['samples']:,} samples")


def memory(figures: dict) -> Figure:
    grown = figures["memory"]["bytes_per_batch"]
    return Figure(max(grown.values()), f"over {figures['memory']['batches']:,} batches")


def generator(figures: dict) -> Figure:
    note = ", ".join(
        f"{own['size_px']} px {own['ratio']:.1f}" for own in figures["scenes"]["stages"]
    )
    return Figure(figures["scenes"]["worst_ratio"], note)


CLAIMS = [
    tests_pass("resume on other ranks and workers", "tests/test_data_resume.py"),
    tests_pass("killed, or two at once: the same bytes", "tests/test_data_ingest_kills.py"),
    from_file(INGEST, "ingest, SIGKILL", "files that differ", kills, "==", 0),
    tests_pass("all shared clips", "tests/test_data_ingest.py -k sixteen"),
    tests_pass("hostile files", "tests/test_data_ingest_hostile.py"),
    from_file(INGEST, "ingest", "rate of bare decoding and resizing", ingest_rate, ">=", 0.8),
    from_file(LOADER, "tokens", "pairs/s of a worker", token_rate, ">=", 500),
    from_file(LOADER, "tokens", "of plain webdataset's rate, bytes", of_webdataset, ">=", 0.5),
    from_file(LOADER, "scenes", "generator over a nano step's need", generator, ">=", 3),
    from_file(LOADER, "resume", "first batch after step 1,000,000", first_batch, "<", 5, "s"),
    from_file(LOADER, "memory", "growth of a batch", memory, "<=", FLAT_BYTES, "bytes"),
    tests_pass(
        "validation, mixtures, tokens", "tests/test_data_datamodule.py tests/test_data_codes.py"
    ),
    tests_pass("shards behind URLs, bounded cache", "tests/test_data_remote.py"),
    tests_pass("tokenise: killed, other encoders", "tests/test_data_tokenize.py"),
]
