"""The format of an archive: schema, manifests, hashes, runs in a repository, and the
lease on it.
"""
