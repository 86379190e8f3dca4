"""The commands, one module each or one for a few short ones; ``vidret.cli.registry`` lists them."""
