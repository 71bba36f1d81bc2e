"""The command line: options, commands, and how they end."""
