"""The fault campaign, `make faults`: work that is killed, starved of disk or damaged must end in the same bytes."""
