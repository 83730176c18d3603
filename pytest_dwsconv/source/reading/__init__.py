"""What does the text of one source file say: its names, values and calls, and where they stand?"""
