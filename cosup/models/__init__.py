"""Networks, heads, and what fits and runs them. Import from the files: timm is slow to load."""
