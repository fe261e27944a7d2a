"""Documents about contracts: AsyncAPI 3 and CloudEvents 1.0, made from esops.toml and the schemas
alone, so that they are the same everywhere and can live in git.
"""
