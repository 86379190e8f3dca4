"""Requests to endpoints in OpenAI's style, at URLs that the user names."""
