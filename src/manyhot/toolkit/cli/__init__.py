"""The command line: one file a command, the options that commands share, what is printed."""
