"""What decides: each gate answers with a Decision, and no data is a no."""
