"""What adapts proposes; it owns nothing. Pure: signals in, recommendations out."""
