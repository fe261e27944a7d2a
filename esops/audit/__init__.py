"""`esops audit`: how long streams are, what is in them, and what their modelling costs."""
