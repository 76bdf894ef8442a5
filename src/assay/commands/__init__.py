"""One thin module a command: a Config and run(config)."""
