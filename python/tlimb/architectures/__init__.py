"""Networks: an encoder, which is carried from one task to the next, and a replaceable head for each target."""
