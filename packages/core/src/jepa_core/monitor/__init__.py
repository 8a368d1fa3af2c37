"""What is measured while training: collapse figures, loggers, console."""
