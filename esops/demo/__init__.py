"""A live shop on an embedded Postgres: a seeded, realistic event store in Marten's layout, its read
model, and who uses it.
"""
