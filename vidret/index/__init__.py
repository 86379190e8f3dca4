"""Indexing runs, on threads of this process or on Ray; merging, copying and importing. ``Engine.index`` begins here.

1. ``run_state.RunState.plan``: which files are new or changed.
2. ``stages.LocalStages``: a file is identified, decoded by a separate process, and its segments are encoded.
3. ``run.WorkerThreads``: one worker per file stores its segments, words, faces and voices as they arrive.
4. ``run_state.RunState.close``: missing files are reported or removed, and the vectors for searches are saved.
"""
