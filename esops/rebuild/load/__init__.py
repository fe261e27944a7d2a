"""Loading green by several processes, on this machine or a cluster, and several projections from
one read.
"""
