"""Virtual time, wires and nodes that drive the governors: the same classes as in a live federation, thousands of machines in one
process."""
