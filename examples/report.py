# %%
"""Write a page of what an index finds: as a notebook, cell by cell, or python examples/report.py INDEX OUT QUERY..."""

import sys
from html import escape
from pathlib import Path

from vidret import Engine

index, out, *queries = sys.argv[1:]
engine = Engine.open(index)

# %% [markdown]
# ## The best moments of each query
# Each says how likely it is that its video answers the query.

# %%
found = {query: engine.locate(query, k=3) for query in queries}

# %% [markdown]
# ## The page

# %%
rows = [
    f"<tr><td>{escape(query)}<td>{escape(moment.path)}<td>{moment.start:.1f} to {moment.end:.1f} s"
    f"<td>{moment.probability:.0%}, {moment.likelihood}"
    for query, moments in found.items()
    for moment in moments
]
page = f"<!doctype html><meta charset=utf-8><title>Moments</title><table>{''.join(rows)}</table>"
Path(out).write_text(page, "utf-8", errors="replace")
print(len(rows), "moments in", out)
