/* SPDX-License-Identifier: MIT */
/*
 * A second process works in a running guest's memory, as a vhost-user device does: it gets the
 * guest_memfd over a Unix socket, maps it, and serves the guest (ask.h) without the VMM. What can
 * be copied from here:
 *
 *   take_memory()    the second process: what it receives, checked, and mapped
 *   serve()          the second process: a ring whose other side is not trusted
 *   start_worker()   the VMM: the other program, started before there is any VM
 *   run_guest()      the VMM: a vCPU loop that notices when the other process is gone
 *   share-socket.c   the descriptor's way
 *
 * What to know before giving a guest_memfd away: it is always opened for reading and writing, and
 * all of it. The receiver can read the guest's memory, change it, discard it and keep it alive,
 * until it ends; there is no smaller right to give. But it cannot make the file smaller, so that
 * nobody's mapping loses its end, nor bind it to a VM, since the VM is not its own.
 */
#include "share.h"
#include "ask.h"
#include "cpu.h"
#include "example.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <limits.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

extern const unsigned char ask_guest_begin[];
extern const unsigned char ask_guest_end[];

#define RING_GPA     (2 * MIB)
#define QUESTIONS    (UINT64_C(16) * ASK_RING)
#define WAIT_SECONDS 60

/* ---- The second process ------------------------------------------------------------------- */

/* Everything received is checked before it is used: the sender could be wrong, or evil. */
static int take_memory(int socket, struct gmem_map **map, struct ring **ring)
{
	const uint64_t needed = GMEM_MEMFD_MMAP | GMEM_MEMFD_INIT_SHARED;
	struct gmem_memfd *memfd = NULL;
	struct share_message message;
	int fd = share_receive(socket, &message);
	int ret;

	if (fd < 0)
		return EXIT_WRONG;
	/* Of no VM here, so NULL. Anything but a guest_memfd is refused. */
	ret = gmem_memfd_open_fd(NULL, fd, &memfd);
	close(fd);
	if (ret < 0)
		return fail_gmem("not what was to be received");
	/* To touch private memory is a SIGBUS. How large the file is, the file says. */
	if ((gmem_memfd_get_flags(memfd) & needed) != needed) {
		ret = fail("that guest_memfd is not shared with its host");
	} else if (message.ring % sizeof(uint64_t) ||
		   message.ring > gmem_memfd_get_size(memfd) - sizeof(struct ring)) {
		ret = fail("no ring can be at 0x%" PRIx64, message.ring);
	} else if (gmem_map_create(memfd, NULL, map) < 0) {
		ret = fail_gmem("cannot map it");
	} else {
		*ring = (struct ring *)((unsigned char *)gmem_map_get_addr(*map) + message.ring);
		printf("  process 2  mapped %.0f MiB of guest_memfd, no VM of its own\n",
		       to_mib(gmem_map_get_size(*map)));
		fflush(stdout);
	}
	gmem_memfd_close(memfd);
	return ret;
}

/* Whether the VMM is still there: it sends nothing more, so that anything is its end. */
static bool vmm_lives(int socket, int wait_ms)
{
	struct pollfd end = {.fd = socket, .events = POLLIN};

	return poll(&end, 1, wait_ms) == 0;
}

/*
 * The guest can write what it wants, at any time. So each index is read once; it is checked, and
 * the copy used; and no entry is looked at twice.
 */
static int serve(int socket, struct ring *ring, uint32_t limit)
{
	uint32_t done = 0, asked;

	while (done < limit) {
		asked = __atomic_load_n(&ring->asked, __ATOMIC_ACQUIRE);
		if (asked == done) {
			if (!vmm_lives(socket, 1))
				return fail("the VMM is gone after %" PRIu32 " answers", done);
			continue;
		}
		if (asked - done > ASK_RING)
			return fail("the guest has overrun its ring");
		for (; done != asked; done++) {
			uint32_t *entry = &ring->entries[done % ASK_RING];
			uint32_t number = __atomic_load_n(entry, __ATOMIC_RELAXED);

			__atomic_store_n(entry, number * number, __ATOMIC_RELAXED);
		}
		__atomic_store_n(&ring->answered, done, __ATOMIC_RELEASE);
	}
	printf("  process 2  answered %" PRIu32 " questions in the guest's memory\n", done);
	return EXIT_RIGHT;
}

static int work(const char *path)
{
	/* For trying what the VMM does when its helper dies in the middle. */
	uint32_t limit = getenv("SHARE_DIE") ? QUESTIONS / 2 : QUESTIONS;
	struct gmem_map *map = NULL;
	struct ring *ring = NULL;
	int socket = share_connect(path);
	int ret = socket < 0 ? EXIT_WRONG : take_memory(socket, &map, &ring);

	if (!ret)
		ret = serve(socket, ring, limit);
	gmem_map_close(map);
	if (socket >= 0)
		close(socket);
	return ret;
}

/* ---- The VMM ------------------------------------------------------------------------------ */

struct machine {
	uint64_t size;
	char folder[PATH_MAX];
	char path[PATH_MAX + 8];
	int listener;
	int socket;
	pid_t worker; /* 0: none */
	struct gmem_vm *vm;
	struct gmem_memfd *memfd;
	struct gmem_slot *slot;
	struct cpu cpu;
	uint64_t sum;
};

/* A socket in a folder that only this user can enter. */
static int listen_for_worker(struct machine *m)
{
	const char *temp = getenv("TMPDIR");

	snprintf(m->folder, sizeof(m->folder), "%s/gmem-share-XXXXXX", temp ? temp : "/tmp");
	if (!mkdtemp(m->folder)) {
		m->folder[0] = '\0';
		return fail_errno("no folder for a socket");
	}
	snprintf(m->path, sizeof(m->path), "%s/socket", m->folder);
	m->listener = share_listen(m->path);
	return m->listener < 0 ? EXIT_WRONG : EXIT_RIGHT;
}

/* Before there is a VM: a child that is forked later could use none of the library's handles. */
static int start_worker(struct machine *m)
{
	fflush(stdout);
	m->worker = fork();
	if (m->worker < 0) {
		m->worker = 0;
		return fail_errno("fork");
	}
	if (m->worker == 0) {
		execl("/proc/self/exe", program_invocation_short_name, "--attach", m->path,
		      (char *)NULL);
		fail_errno("cannot start the second process");
		_exit(EXIT_WRONG);
	}
	return EXIT_RIGHT;
}

static int make_memory(struct machine *m, const char *device)
{
	struct gmem_vm_opts vm_opts = {.sz = sizeof(vm_opts), .device = device};
	struct gmem_memfd_opts memfd_opts = {
		.sz = sizeof(memfd_opts),
		.size = m->size,
		.flags = GMEM_MEMFD_MMAP | GMEM_MEMFD_INIT_SHARED,
	};
	struct gmem_slot_opts slot_opts = {.sz = sizeof(slot_opts), .size = m->size};

	if (gmem_vm_open(&vm_opts, &m->vm) < 0)
		return fail_machine("no VM");
	if (gmem_memfd_create(m->vm, &memfd_opts, &m->memfd) < 0)
		return fail_machine("no guest_memfd");
	slot_opts.memfd = m->memfd;
	if (gmem_slot_create(m->vm, &slot_opts, &m->slot) < 0)
		return fail_gmem("no slot");
	return load_guest(m->vm, ask_guest_begin, ask_guest_end);
}

/* The slot maps guest address 0 to byte 0 of the file, so that an address is an offset. */
static int give_memory(struct machine *m)
{
	const struct share_message message = {.magic = SHARE_MAGIC, .ring = RING_GPA};

	m->socket = share_accept(m->listener, m->worker, WAIT_SECONDS);
	if (m->socket < 0)
		return EXIT_WRONG;
	printf("  process 1  sends its guest_memfd to process %d, which it has started itself\n",
	       m->worker);
	fflush(stdout);
	return share_send(m->socket, &message, gmem_memfd_get_fd(m->memfd)) < 0 ? EXIT_WRONG
										: EXIT_RIGHT;
}

static void on_tick(int signal)
{
	(void)signal; /* it makes KVM_RUN return, and that is all */
}

/* A guest that waits for another process makes no exit: look after both now and then. */
static int start_ticks(void)
{
	const struct sigaction action = {.sa_handler = on_tick};
	const struct itimerval tick = {{0, 100000}, {0, 100000}};

	if (sigaction(SIGALRM, &action, NULL) < 0 || setitimer(ITIMER_REAL, &tick, NULL) < 0)
		return fail_errno("no timer");
	return EXIT_RIGHT;
}

static void stop_ticks(void)
{
	const struct itimerval none = {0};

	setitimer(ITIMER_REAL, &none, NULL);
}

/* 0: the other process is at work, or has done its part well. */
static int check_worker(struct machine *m, int options)
{
	int status = 0;
	pid_t pid;

	if (!m->worker)
		return EXIT_RIGHT;
	do
		pid = waitpid(m->worker, &status, options);
	while (pid < 0 && errno == EINTR);
	if (pid == 0)
		return EXIT_RIGHT;
	m->worker = 0;
	if (pid > 0 && WIFEXITED(status) && WEXITSTATUS(status) == 0)
		return EXIT_RIGHT;
	return fail("the second process has failed");
}

static int hear(struct machine *m, uint32_t port, uint32_t value)
{
	switch (port) {
	case ASK_PORT_SUM_LOW:
		m->sum = value;
		return EXIT_RIGHT;
	case ASK_PORT_SUM_HIGH:
		m->sum |= (uint64_t)value << 32;
		return EXIT_RIGHT;
	default:
		return fail("the guest wrote to unknown port 0x%" PRIx32, port);
	}
}

/* Whether the guest has its answers, or who gives them. One that ends may have given the last. */
static bool is_served(const struct machine *m)
{
	uint32_t answered;

	return m->worker || (gmem_vm_load_u32(m->vm, 0, RING_GPA + ASK_ANSWERED, &answered) == 0 &&
			     answered == QUESTIONS);
}

/* The guest depends on another process now. It may never end by itself. */
static int run_guest(struct machine *m)
{
	double deadline = now() + WAIT_SECONDS;
	uint32_t port, value;
	int ret = EXIT_RIGHT;

	while (!ret) {
		if (now() > deadline || !is_served(m))
			return fail("the guest waits for answers, and nobody gives them");
		if (ioctl(m->cpu.fd, KVM_RUN, 0) < 0) {
			if (errno != EINTR)
				return fail_errno("KVM_RUN");
			ret = check_worker(m, WNOHANG);
			continue;
		}
		switch (cpu_decode(m->cpu.run, &port, &value)) {
		case CPU_SAYS:
			ret = hear(m, port, value);
			break;
		case CPU_HALTS:
			return EXIT_RIGHT;
		case CPU_ODD:
			return cpu_complain(m->cpu.run);
		}
	}
	return ret;
}

/* The ring as this process sees it, through another mapping of the same pages. */
static int judge(struct machine *m)
{
	uint64_t expected = 0;
	uint32_t answered;

	for (uint64_t i = 0; i < QUESTIONS; i++)
		expected += i * i;
	if (gmem_vm_load_u32(m->vm, 0, RING_GPA + ASK_ANSWERED, &answered) < 0)
		return fail_gmem("cannot read the ring");
	printf("  guest      added %" PRIu32 " answers: %" PRIu64 "\n", answered, m->sum);
	if (m->sum != expected || answered != QUESTIONS)
		return fail("the sum should be %" PRIu64, expected);
	return EXIT_RIGHT;
}

static int run_machine(struct machine *m, const char *device)
{
	const uint64_t arguments[CPU_ARGUMENTS] = {RING_GPA, QUESTIONS};
	int ret = make_memory(m, device);

	if (ret)
		return ret;
	printf("a guest with %" PRIu64 " MiB of guest_memfd, and two processes that have it\n\n",
	       m->size / MIB);
	ret = give_memory(m);
	if (!ret)
		ret = cpu_open(&m->cpu, device, gmem_vm_get_fd(m->vm), arguments);
	if (!ret)
		ret = start_ticks();
	if (!ret)
		ret = run_guest(m);
	stop_ticks();
	if (!ret)
		ret = check_worker(m, 0);
	if (!ret)
		ret = judge(m);
	if (!ret)
		printf("\nall right: no exit of the vCPU took part in an answer\n");
	return ret;
}

/* The worker sees its socket close, and ends; then there is nothing of it left. */
static void close_machine(struct machine *m)
{
	if (m->socket >= 0)
		close(m->socket);
	if (m->listener >= 0)
		close(m->listener);
	if (m->worker) {
		kill(m->worker, SIGTERM);
		(void)waitpid(m->worker, NULL, 0);
	}
	if (m->folder[0]) {
		unlink(m->path);
		rmdir(m->folder);
	}
	cpu_close(&m->cpu);
	gmem_slot_close(m->slot);
	gmem_memfd_close(m->memfd);
	gmem_vm_close(m->vm);
}

int main(int argc, char **argv)
{
	const struct usage usage = {
		.purpose = "Let a second process work in a running guest's memory.",
		.lacks = "no usable KVM or guest_memfd",
		.size_of = "the guest's memory",
		.min_mib = 4,
		.max_mib = 1024,
		.extra = "--attach",
		.extra_value = "PATH",
		.extra_help = "be the second process, of the one that listens there",
	};
	struct options options = {.size = 16 * MIB};
	struct machine m = {.listener = -1, .socket = -1, .cpu = CPU_NONE};
	int ret = parse_options(argc, argv, &usage, &options);

	if (ret >= 0)
		return ret;
	if (options.extra)
		return work(options.extra);
	m.size = options.size;
	ret = listen_for_worker(&m);
	if (!ret)
		ret = start_worker(&m);
	if (!ret)
		ret = run_machine(&m, options.device);
	close_machine(&m);
	return ret;
}
