"""Who annotates: the hierarchy of scopes, the kinds of teachers, their annotations on disk.

Import from the files: some pull in torch models, which are slow to load.
"""
