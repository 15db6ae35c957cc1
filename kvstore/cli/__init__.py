"""The `kvstore` command: one file a subcommand, imported when it is run."""
