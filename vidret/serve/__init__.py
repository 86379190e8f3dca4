"""The HTTP API of an index, and its search page. ``app.create_app`` builds the app, and ``vidret serve`` runs it."""
