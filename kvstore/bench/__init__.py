"""Speed and memory of a node, measured beside what the machine can do without it.

`settings` says what is measured, `probes` and `bounds` measure it once, `rounds` does so again and again, `results` and
`goals` draw conclusions, `tables`, `document` and `plot` show them. `run` is the whole of it.
"""

from kvstore.bench.run import BenchReport, run_bench
from kvstore.bench.settings import BenchSettings

__all__ = ["BenchReport", "BenchSettings", "run_bench"]
