"""What training minimises: one primary term and any number of auxiliary ones."""
