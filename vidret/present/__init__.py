"""Output of results for people and other programs: tables, contact sheets, charts, exports."""
