"""What else one would do, on the same networks, data and evaluation (METHOD 3)."""
