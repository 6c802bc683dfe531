"""What everything else stands on: messages, files, signals, names. Standard library and rich alone."""
