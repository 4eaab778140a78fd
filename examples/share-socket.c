/* SPDX-License-Identifier: MIT */
#include "share.h"
#include "example.h"

#include <poll.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

static int fail_with(int fd, const char *what)
{
	fail_errno(what);
	if (fd >= 0)
		close(fd);
	return -1;
}

static int make_socket(const char *path, struct sockaddr_un *address)
{
	size_t length = strlen(path);

	*address = (struct sockaddr_un){.sun_family = AF_UNIX};
	if (length >= sizeof(address->sun_path)) {
		print_failure("too long for the path of a socket: %s", path);
		return -1;
	}
	memcpy(address->sun_path, path, length + 1);
	/* Records, not a stream: a message comes whole or not at all. */
	return socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
}

int share_listen(const char *path)
{
	struct sockaddr_un address;
	int fd = make_socket(path, &address);

	if (fd < 0 || bind(fd, (const struct sockaddr *)&address, sizeof(address)) < 0 ||
	    listen(fd, 1) < 0)
		return fail_with(fd, path);
	return fd;
}

/* The kernel tells who is at the other end: what a peer says of itself proves nothing. */
static int check_peer(int fd, pid_t pid)
{
	struct ucred peer;
	socklen_t size = sizeof(peer);

	if (getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &peer, &size) < 0) {
		fail_errno("SO_PEERCRED");
		return -1;
	}
	if (peer.uid != geteuid() || (pid && peer.pid != pid)) {
		print_failure("process %d of user %u is a stranger", peer.pid, peer.uid);
		return -1;
	}
	return 0;
}

int share_accept(int listener, pid_t pid, int seconds)
{
	struct pollfd wait = {.fd = listener, .events = POLLIN};
	int fd;

	if (poll(&wait, 1, seconds * 1000) <= 0) {
		print_failure("the other process does not connect");
		return -1;
	}
	fd = accept4(listener, NULL, NULL, SOCK_CLOEXEC);
	if (fd < 0)
		return fail_with(fd, "accept");
	if (check_peer(fd, pid) < 0) {
		close(fd);
		return -1;
	}
	return fd;
}

int share_connect(const char *path)
{
	struct sockaddr_un address;
	int fd = make_socket(path, &address);

	if (fd < 0 || connect(fd, (const struct sockaddr *)&address, sizeof(address)) < 0)
		return fail_with(fd, path);
	if (check_peer(fd, 0) < 0) {
		close(fd);
		return -1;
	}
	return fd;
}

/* Room for one descriptor, aligned as a header of it must be. */
union control {
	char bytes[CMSG_SPACE(sizeof(int))];
	struct cmsghdr align;
};

int share_send(int socket, const struct share_message *message, int fd)
{
	struct share_message copy = *message;
	struct iovec part = {.iov_base = &copy, .iov_len = sizeof(copy)};
	union control control = {0};
	struct msghdr header = {
		.msg_iov = &part,
		.msg_iovlen = 1,
		.msg_control = control.bytes,
		.msg_controllen = sizeof(control.bytes),
	};
	struct cmsghdr *rights = CMSG_FIRSTHDR(&header);

	rights->cmsg_level = SOL_SOCKET;
	rights->cmsg_type = SCM_RIGHTS;
	rights->cmsg_len = CMSG_LEN(sizeof(fd));
	memcpy(CMSG_DATA(rights), &fd, sizeof(fd));
	if (sendmsg(socket, &header, MSG_NOSIGNAL) < 0) {
		fail_errno("cannot send the guest_memfd");
		return -1;
	}
	return 0;
}

int share_receive(int socket, struct share_message *message)
{
	struct iovec part = {.iov_base = message, .iov_len = sizeof(*message)};
	union control control;
	struct msghdr header = {
		.msg_iov = &part,
		.msg_iovlen = 1,
		.msg_control = control.bytes,
		.msg_controllen = sizeof(control.bytes),
	};
	ssize_t got = recvmsg(socket, &header, MSG_CMSG_CLOEXEC);
	const struct cmsghdr *rights = got < 0 ? NULL : CMSG_FIRSTHDR(&header);
	int fd = -1;

	/* There is room for one descriptor: with more the kernel drops them and says so. */
	if (rights && rights->cmsg_level == SOL_SOCKET && rights->cmsg_type == SCM_RIGHTS &&
	    rights->cmsg_len == CMSG_LEN(sizeof(fd)))
		memcpy(&fd, CMSG_DATA(rights), sizeof(fd));
	if (fd >= 0 && got == sizeof(*message) && message->magic == SHARE_MAGIC &&
	    !(header.msg_flags & (MSG_TRUNC | MSG_CTRUNC)))
		return fd;
	print_failure("that is no message of this protocol");
	if (fd >= 0)
		close(fd);
	return -1;
}
