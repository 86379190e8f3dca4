"""One query of an open index, one module per step; ``Engine.search`` and ``Engine.locate`` begin here.

1. ``query.planning.plan`` parses the text into clauses (``query.grammar``, ``query.clauses``), and encodes these.
2. ``fusion.make_question`` finds the texts and sounds that match each clause.
3. ``fusion.rank`` finds the pictures that match, fuses all by video (``video_scores``), and sorts the videos.
4. ``hits.search`` keeps videos whose files exist, and adds their probability (``probability``) and evidence.
5. ``locating.locate`` finds spans of time in the best videos, or in one (``fused_moments``, ``placed_moments``), by all
   of its frames or by a grounding head (``heads``).
"""
