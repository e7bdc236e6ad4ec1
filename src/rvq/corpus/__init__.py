"""Codes at work: many recordings <-> Parquet, loading for training, what codes alone can tell."""
