"""``python -m tests.bench``: every benchmark, ratios side by side in one run. Nothing here asserts a time."""

from tests.bench import (
    bench_copy,
    bench_execute,
    bench_jobs,
    bench_move,
    bench_snapshots,
    bench_split,
    bench_stream,
    bench_tpch,
    bench_transactions,
    bench_writes,
)

for bench in (
    bench_execute,
    bench_transactions,
    bench_writes,
    bench_tpch,
    bench_stream,
    bench_split,
    bench_copy,
    bench_move,
    bench_snapshots,
    bench_jobs,
):
    bench.main()
