"""What esops knows, for assistants, by the Model Context Protocol (`esops mcp`).

Read-only by construction: every session that this process opens in Postgres is read-only, so the
server itself refuses a write, and no tool calls a job that writes. What needs the user's code runs
in a process of its own, with the code that is on disk at that moment.
"""
