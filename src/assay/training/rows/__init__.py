"""What each kind of training reads: its rows, and the figures of them."""
