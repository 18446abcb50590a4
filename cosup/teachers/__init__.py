"""Teachers: the hierarchy of scopes, the kinds of teachers, and the store of annotations."""
