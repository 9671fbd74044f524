"""``make run``: real servers from Python wheels and every service, on one machine, as one supervised tree."""
