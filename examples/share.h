/* SPDX-License-Identifier: MIT */
/* The socket between the two processes of share.c: how a guest_memfd goes from one to the other. */
#ifndef SHARE_H
#define SHARE_H

#include <stdint.h>
#include <sys/types.h>

/* What comes with the descriptor. The receiver believes nothing of it unchecked. */
struct share_message {
	uint32_t magic;
	uint32_t pad;
	uint64_t ring; /* offset of struct ring in the file */
};

#define SHARE_MAGIC UINT32_C(0x67736831)

/* All of these return a descriptor or 0, or -1 after a message. */

/* Listen at a path that nobody else can reach, and stand in a folder of one's own. */
int share_listen(const char *path);

/* Take the first connection within some seconds. It must be from the process `pid`. */
int share_accept(int listener, pid_t pid, int seconds);

/* Connect. The process that listens must be the same user's. */
int share_connect(const char *path);

int share_send(int socket, const struct share_message *message, int fd);

/* The descriptor, which has close-on-exec. */
int share_receive(int socket, struct share_message *message);

#endif /* SHARE_H */
