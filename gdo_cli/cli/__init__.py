"""The command line: parse, call, print. Nothing heavy at import."""
