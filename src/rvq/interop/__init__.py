"""Other codecs' checkpoints and files in this package's terms."""
