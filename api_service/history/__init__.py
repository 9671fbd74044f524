"""What somebody has asked so far: to list it, and to erase it."""
