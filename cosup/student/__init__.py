"""The student: the strong model trained on the annotations of the teachers."""
