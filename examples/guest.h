/* SPDX-License-Identifier: MIT */
/* What each guest has in common with its VMM. The assembler reads this too: see guest.S. */
#ifndef GUEST_H
#define GUEST_H

/*
 * A guest says something by writing 4 bytes to a port. On x86-64 `out` does it; on arm64 it is a
 * store to an address without memory, GUEST_PORTS_GPA plus the port.
 */
#define GUEST_PORTS_GPA 0x80000000

#endif /* GUEST_H */
