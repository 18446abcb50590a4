"""Annotations made elsewhere, in the forms they come in.

A file goes the way of these modules: `frames` reads it in chunks, `layout` finds its form, `rows`,
`nested`, `arrays` and `probabilities` read the forms, `votes` holds the answers of all annotators,
`answers` those of one as classes of the task, `matching` finds its samples, `reading` keeps what
was read, `teachers` makes a teacher of each annotator, and `checks` collects what is wrong.
"""
