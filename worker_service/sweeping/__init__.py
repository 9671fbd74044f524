"""What nobody asks for, and somebody has to do: expiring, taking back, removing."""
