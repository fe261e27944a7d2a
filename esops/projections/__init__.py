"""What turns events into rows: definitions, the versions of read models, and the runner that keeps
them fresh.
"""
