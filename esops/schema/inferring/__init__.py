"""`esops schema infer`: JSON Schema for each event type and shape, from all of its values.

`nodes` and `scalars` take values column by column, `documents` says what they are as JSON Schema,
`personal` suspects personal data, `generated` writes files that live in git, `run` reads a store.

No library does this: genson, the one for Python, knows neither formats nor enums nor ranges nor
maps, takes one value at a time, and needs several times as long.
"""
