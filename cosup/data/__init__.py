"""Where images come from: sources, the sample table, splits, decoding and transforms."""
