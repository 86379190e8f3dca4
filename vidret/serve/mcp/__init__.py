"""The MCP server: an index as tools and resources of a language model (Model Context Protocol)."""
