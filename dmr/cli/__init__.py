"""The command line: parse flags, call the server's HTTP API, print. Answers go to stdout, talk goes to stderr."""
