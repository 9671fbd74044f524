"""The model server, as it is spoken to and understood."""
