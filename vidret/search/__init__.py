"""One query of an open index, a module a step; ``Engine.search`` and ``Engine.locate`` begin here.

1. ``query.planning.plan``: the words become clauses (``query.grammar``, ``query.clauses``), and these become vectors.
2. ``fusion.make_question``: the texts and sounds that match each clause.
3. ``fusion.rank``: the pictures that match, joined with these by video (``video_scores``), best video first.
4. ``hits.search``: the videos whose files exist, how likely they are (``probability``), and what speaks for them.
5. ``locating.locate``: in the best videos, or in one, spans of time (``fused_moments``, ``placed_moments``), by all of
   its frames or by a grounding head (``heads``).
"""
