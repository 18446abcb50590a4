"""The pages and terminal reports of runs."""
