"""The command line: one file per subcommand. Only what is here prints or exits."""
