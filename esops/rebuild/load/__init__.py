"""Loading green: by one process or several, on this machine or a cluster, several projections from
one read.
"""
