"""A replay takes time in proportion to the number of recorded steps."""

import importlib.util
from pathlib import Path

_PATH = Path(__file__).parents[1] / "benchmarks" / "replay.py"


async def test_replay_time_grows_linearly() -> None:
    """Ten times the steps take about ten times as long; a quadratic replay would take a hundred times."""
    spec = importlib.util.spec_from_file_location("replay_benchmark", _PATH)
    assert spec is not None
    assert spec.loader is not None
    benchmark = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(benchmark)

    small = await benchmark.replay_seconds(300)
    large = await benchmark.replay_seconds(3_000)

    print(f"replay of 300 steps {small * 1e3:.1f} ms, of 3,000 steps {large * 1e3:.1f} ms: {large / small:.1f} x")
    assert large / small < 25
