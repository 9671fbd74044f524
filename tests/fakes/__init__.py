"""Hand-written stand-ins for servers that tests cannot have, or cannot make fail at will."""
