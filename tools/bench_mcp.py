"""Measure the tools of ``vidret mcp`` as a client sees them; print one JSON object.

    python tools/bench_search.py --texts 500000 --index INDEX    # once: 100,000 segments
    python tools/bench_mcp.py INDEX [--queries 60]

Starts ``vidret mcp --index INDEX`` and calls ``search`` and ``locate`` over stdio with the SDK's client, one query
after another, as a model does. Times are milliseconds from the call to its answer. On a busy machine the CPU's
milliseconds of both processes tell more than the clock's, so both are there; those of the server are read from /proc.
"""

import argparse
import json
import os
import statistics
import sys
import time
from pathlib import Path
from typing import Any

import anyio
from mcp import Client, StdioServerParameters

from vidret.align.baseline import UNRELATED

NUM_WARM = 8
PROGRAM = "import sys; from vidret.cli import main; sys.argv[0] = 'vidret'; sys.exit(main())"
TOOLS: dict[str, dict[str, Any]] = {"search": {"k": 10}, "locate": {"k": 10, "weak": True}}


def read_child_cpu_s() -> float:
    """Return the CPU time of the processes that this one started, in seconds."""
    total = 0
    for task in Path("/proc/self/task").iterdir():
        for pid in (task / "children").read_text().split():
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
            total += int(fields[11]) + int(fields[12])  # user and system time
    return total / os.sysconf("SC_CLK_TCK")


async def time_tool(client: Any, name: str, queries: list[str]) -> dict[str, float]:
    """Call a tool with every query, after a few to warm up."""
    for query in queries[:NUM_WARM]:
        await client.call_tool(name, {"query": query, **TOOLS[name]})
    seconds, characters = [], []
    busy = time.process_time() + read_child_cpu_s()
    for query in queries:
        started = time.perf_counter()
        answer = await client.call_tool(name, {"query": query, **TOOLS[name]})
        seconds.append(time.perf_counter() - started)
        assert not answer.is_error, answer.content[0].text
        characters.append(len(answer.content[0].text))
    busy = time.process_time() + read_child_cpu_s() - busy
    return {
        "p50_ms": round(1e3 * statistics.median(seconds), 1),
        "p90_ms": round(1e3 * statistics.quantiles(seconds, n=10)[-1], 1),
        "mean_cpu_ms": round(1e3 * busy / len(queries), 1),
        "median_characters": statistics.median(characters),
    }


async def measure(index: Path, queries: list[str]) -> dict[str, Any]:
    """Start the server, and call its tools."""
    arguments = ["-c", PROGRAM, "mcp", "--index", str(index)]
    server = StdioServerParameters(command=sys.executable, args=arguments, env=dict(os.environ))
    started = time.perf_counter()
    async with Client(server) as client:
        await client.list_tools()
        report: dict[str, Any] = {"start_seconds": round(time.perf_counter() - started, 2)}
        for name in TOOLS:
            report[name] = await time_tool(client, name, queries)
    return report


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description="Measure the tools of the MCP server.")
    parser.add_argument("index", type=Path)
    parser.add_argument("--queries", type=int, default=60)
    arguments = parser.parse_args()
    queries = [UNRELATED[number % len(UNRELATED)] for number in range(arguments.queries)]
    report = anyio.run(measure, arguments.index, queries)
    report["load"] = round(os.getloadavg()[0], 1)  # of the machine: above its cores, times tell little
    print(json.dumps(report, indent=2))


if __name__ == "__main__":
    main()
