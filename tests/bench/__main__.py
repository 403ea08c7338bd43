"""``python -m tests.bench``: every benchmark, ratios side by side in one run. Nothing here asserts a time."""

from tests.bench import bench_copy, bench_execute, bench_jobs, bench_split

for bench in (bench_execute, bench_split, bench_copy, bench_jobs):
    bench.main()
