"""What selected networks look at, how they see scans beside each other, and what autoencoders make of them."""
