"""What a job of `esops schema` found in a store so far, and how far it came: a JSON document, kept
where esops keeps things of that store, so that the next run reads only what is new.

    kept = progress_of(store, settings, SchemaJob("check", "--from-start"), selection)
    kept.prepare()                  # before anything is read: may esops write there?
    found = kept.read()             # None at the first run
    …                               # read on after found.position
    kept.write(document, position)  # whole or not at all

A document belongs to the log that it was made from: it is kept with the mark of its position, as
checkpoints are, and a store that was restored to an earlier time does not pass for the same one.
"""

from esops.schema.progress.kept import Kept, KeptProgress, SchemaJob, progress_of

__all__ = ["Kept", "KeptProgress", "SchemaJob", "progress_of"]
