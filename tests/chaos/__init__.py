"""The failure matrix for real: processes killed and stopped, links cut, disks filled, clocks moved; what is left is judged."""
