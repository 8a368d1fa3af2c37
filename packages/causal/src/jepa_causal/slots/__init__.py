"""Object slots: encoders that find them in pictures, their scores, and slots that others extracted."""
