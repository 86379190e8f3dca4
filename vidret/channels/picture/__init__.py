"""The picture channel: frames and segments compared with a query by their vectors."""
