"""A reward model that is trained anew on what its policy says now, and takes the place of the old one."""
