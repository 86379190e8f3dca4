"""Training: retrieval methods, grounding heads, and their losses, optimisers, command line and exports."""
