"""Other libraries learn to open and save `.sinr` files when the module of their name here is imported."""
