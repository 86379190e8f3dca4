"""JSON over HTTP to endpoints and webhooks at URLs that the user names."""
