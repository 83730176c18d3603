"""What runs the user's file: its model, its checkpoint, and the proof of what is written."""
