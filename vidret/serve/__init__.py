"""The engine over HTTP: ``app.create_app`` joins it, ``vidret serve`` runs it."""
