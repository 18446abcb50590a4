"""Runs whose unlabelled samples are too many to be listed: they are worked on shard by shard."""
