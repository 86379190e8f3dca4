"""One indexing run, on threads here or on Ray; merging indexes. ``Engine.index`` begins here.

1. ``run_state.RunState.plan``: which files are new or changed.
2. ``stages.LocalStages``: a file is identified, decoded by a process of its own, and its segments encoded.
3. ``run.WorkerThreads``: one worker a file stores its segments, words, faces and voices as they arrive.
4. ``run_state.RunState.close``: what is gone is told or removed, and what searches start from is saved.
"""
