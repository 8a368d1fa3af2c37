"""The ways of composing a JEPA from its parts."""
