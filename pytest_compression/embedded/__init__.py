"""Three small real models, the world facts they were taught, and how they were trained."""
