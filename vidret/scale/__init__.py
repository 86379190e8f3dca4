"""The stages of indexing on Ray, for corpora that outgrow one machine."""
