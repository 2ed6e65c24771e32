"""The experiments as functions of objects, and what they return: what the commands do, in a program or a notebook."""
