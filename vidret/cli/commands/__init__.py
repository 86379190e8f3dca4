"""The commands, one module each or one for a few short ones; ``vidret.cli.app`` lists them."""
