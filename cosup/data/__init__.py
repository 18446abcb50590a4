"""Images and their labels: sources, the sample table, splits, decoding and transforms."""
