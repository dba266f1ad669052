"""Steps that train the model: on a text or on facts, never on what the gate asks."""
