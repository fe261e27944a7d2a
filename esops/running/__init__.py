"""What keeps versions fresh: the runner of one, the host of many, and the throttle on both."""
