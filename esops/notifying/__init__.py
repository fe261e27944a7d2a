"""Telling somebody how a command ended, or that something does not advance.

What is sent says what happened, to what, where and by whom, and never why: a reason may have a
value of an event in it. It is sent beside the work and for a few seconds at most; what cannot be
delivered is a warning in the log, and changes nothing else.
"""
