"""Language models of three families: loading, their layers, dense weights kept and restored."""
