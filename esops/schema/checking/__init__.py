"""`esops schema check`: does every event fit the schema of its type?

`rules` compiles the schemas of a type and names what an event breaks, `violations` groups that,
`history` reads the events, `since_last` remembers how far it came. `sarif` and `metrics` write what
was found for other programs. No value of a payload leaves this package.
"""
