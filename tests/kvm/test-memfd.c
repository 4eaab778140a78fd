/* SPDX-License-Identifier: MIT */
/* gmem_memfd on a real KVM. */
#include "fixture.h"

#include <fcntl.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#define GPA	    UINT64_C(0x10000)
#define MIB	    (UINT64_C(1) << 20)
#define POLICY_BIND 2

/* ---- Creation ---- */

START_TEST(create_takes_exactly_the_flags_of_the_vm)
{
	const uint64_t known = MEMFD_SHARED, flag = UINT64_C(1) << _i;
	struct gmem_memfd *memfd;
	struct world world;
	uint64_t cap;

	if (!world_open_guest_memfd(&world))
		return;
	cap = (uint64_t)raw_cap(world.fd, RAW_CAP_GUEST_MEMFD_FLAGS);
	if (cap & flag) {
		assert_ok(gmem_memfd_create(world.vm, MEMFD(.size = world.page, .flags = flag),
					    &memfd));
		ck_assert_uint_eq(gmem_memfd_get_flags(memfd), flag);
		gmem_memfd_close(memfd);
	} else if (known & flag) {
		assert_fails(gmem_memfd_create(world.vm, MEMFD(.size = world.page, .flags = flag),
					       &memfd),
			     EOPNOTSUPP, FLAGS_UNSUPPORTED);
	} else {
		assert_fails(gmem_memfd_create(world.vm, MEMFD(.size = world.page, .flags = flag),
					       &memfd),
			     EINVAL, FLAGS_UNKNOWN);
	}
	world_close(&world);
}
END_TEST

/* The kernel was told these flags and no others: what can be done with the file shows them. */
START_TEST(create_gives_the_kernel_these_flags)
{
	uint64_t flags = (uint64_t)_i;
	struct gmem_memfd *memfd;
	struct world world;
	int fd, r = 0;
	void *addr;

	if (!world_open_guest_memfd(&world))
		return;
	assert_ok(gmem_memfd_create(world.vm, MEMFD(.size = world.page, .flags = flags), &memfd));
	ck_assert_uint_eq(gmem_memfd_get_flags(memfd), flags);
	ck_assert_int_eq(gmem_memfd_get_kind(memfd), GMEM_MEMFD_KIND_GUEST);
	fd = gmem_memfd_get_fd(memfd);
	addr = mmap(NULL, world.page, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	ck_assert_int_eq(addr != MAP_FAILED, (flags & GMEM_MEMFD_MMAP) != 0);
	if (addr != MAP_FAILED) {
		r = madvise(addr, world.page, MADV_POPULATE_WRITE);
		ck_assert_int_eq(r == 0, (flags & GMEM_MEMFD_INIT_SHARED) != 0);
		munmap(addr, world.page);
	}
	gmem_memfd_close(memfd);
	world_close(&world);
}
END_TEST

START_TEST(create_takes_whole_pages_up_to_a_signed_size)
{
	struct gmem_memfd *memfd;
	struct world world;
	uint64_t page, largest;

	if (!world_open(&world, 0))
		return;
	page = world.page;
	largest = (UINT64_C(1) << 63) - page;
	assert_fails(gmem_memfd_create(world.vm, MEMFD(.size = 0), &memfd), EINVAL, RANGE_EMPTY);
	assert_fails(gmem_memfd_create(world.vm, MEMFD(.size = 1), &memfd), EINVAL,
		     RANGE_UNALIGNED);
	assert_fails(gmem_memfd_create(world.vm, MEMFD(.size = page + 1), &memfd), EINVAL,
		     RANGE_UNALIGNED);
	assert_fails(gmem_memfd_create(world.vm, MEMFD(.size = UINT64_MAX), &memfd), EINVAL,
		     RANGE_UNALIGNED);
	assert_fails(gmem_memfd_create(world.vm, MEMFD(.size = largest + page), &memfd), ERANGE,
		     TOO_LARGE);
	assert_fails(gmem_memfd_create(world.vm, MEMFD(.size = -page), &memfd), ERANGE, TOO_LARGE);
	ck_assert_ptr_null(memfd);
	memfd = world_memfd(&world, largest / page);
	ck_assert_uint_eq(gmem_memfd_get_size(memfd), largest);
	gmem_memfd_close(memfd);
	world_close(&world);
}
END_TEST

START_TEST(create_makes_one_descriptor_with_close_on_exec)
{
	struct gmem_memfd *memfd;
	struct world world;
	struct stat st;
	int fds;

	if (!world_open(&world, 0))
		return;
	fds = host_count_fds();
	memfd = world_memfd(&world, 3);
	ck_assert_int_eq(host_count_fds(), fds + 1);
	ck_assert_int_eq(fcntl(gmem_memfd_get_fd(memfd), F_GETFD), FD_CLOEXEC);
	ck_assert_int_eq(fstat(gmem_memfd_get_fd(memfd), &st), 0);
	ck_assert_uint_eq((uint64_t)st.st_size, 3 * world.page);
	ck_assert_uint_eq(gmem_memfd_get_size(memfd), 3 * world.page);
	gmem_memfd_close(memfd);
	ck_assert_int_eq(host_count_fds(), fds);
	world_close(&world);
}
END_TEST

START_TEST(create_says_that_descriptors_have_run_out)
{
	struct rlimit limit, before;
	struct gmem_memfd *memfd;
	struct world world;
	int next;

	if (!world_open(&world, 0))
		return;
	ck_assert_int_eq(getrlimit(RLIMIT_NOFILE, &before), 0);
	limit = before;
	next = dup(world.fd); /* the lowest that is free */
	close(next);
	limit.rlim_cur = (rlim_t)next;
	ck_assert_int_eq(setrlimit(RLIMIT_NOFILE, &limit), 0);
	assert_fails(gmem_memfd_create(world.vm,
				       MEMFD(.size = world.page, .flags = MEMFD_SHARED,
					     .fallback = world.fallback),
				       &memfd),
		     EMFILE, FD_LIMIT);
	ck_assert_ptr_null(memfd);
	ck_assert_int_eq(setrlimit(RLIMIT_NOFILE, &before), 0);
	world_close(&world);
}
END_TEST

/* ---- Pages ---- */

START_TEST(allocate_makes_pages_that_read_zero)
{
	struct gmem_memfd *memfd;
	struct world world;
	char *map;
	int fd;

	if (!world_open(&world, 0))
		return;
	if (!host_can_count_cached())
		SKIP_WORLD(&world, "this kernel has no cachestat() to count pages with");
	memfd = world_memfd(&world, 8);
	fd = gmem_memfd_get_fd(memfd);
	assert_ok(gmem_memfd_allocate(memfd, 2 * world.page, 3 * world.page));
	ck_assert_int_eq(host_count_cached(fd), 3);
	assert_ok(gmem_memfd_allocate(memfd, 0, 8 * world.page));
	ck_assert_int_eq(host_count_cached(fd), 8);
	map = raw_map(fd, 0, 8 * world.page);
	for (size_t i = 0; i < 8 * world.page; i++)
		ck_assert_int_eq(map[i], 0);
	munmap(map, 8 * world.page);
	gmem_memfd_close(memfd);
	world_close(&world);
}
END_TEST

START_TEST(allocate_goes_on_after_signals)
{
	const uint64_t size = 48 * MIB;
	struct gmem_memfd *memfd;
	struct world world;
	int fd;

	if (!world_open(&world, 0))
		return;
	if (!host_can_count_cached())
		SKIP_WORLD(&world, "this kernel has no cachestat() to count pages with");
	memfd = world_memfd(&world, size / world.page);
	fd = gmem_memfd_get_fd(memfd);
	host_pester(300);
	assert_ok(gmem_memfd_allocate(memfd, 0, size));
	host_pester(0);
	ck_assert_int_eq(host_count_cached(fd), (int64_t)(size / world.page));
	gmem_memfd_close(memfd);
	world_close(&world);
}
END_TEST

START_TEST(discard_drops_just_its_pages)
{
	struct gmem_memfd *memfd;
	struct world world;
	char *map;

	if (!world_open(&world, 0))
		return;
	memfd = world_memfd(&world, 8);
	map = raw_map(gmem_memfd_get_fd(memfd), 0, 8 * world.page);
	memset(map, 5, 8 * world.page);
	assert_ok(gmem_memfd_discard(memfd, 2 * world.page, 3 * world.page));
	ck_assert_uint_eq(host_count_resident(map, 8 * world.page), 5);
	ck_assert_uint_eq(host_count_resident(map + 2 * world.page, 3 * world.page), 0);
	for (size_t page = 0; page < 8; page++)
		ck_assert_int_eq(map[page * world.page + 7], page >= 2 && page < 5 ? 0 : 5);
	munmap(map, 8 * world.page);
	gmem_memfd_close(memfd);
	world_close(&world);
}
END_TEST

/* In pages, but for the first two, in bytes. */
static const struct {
	uint64_t offset, size;
	bool bytes;
	int error;
	enum gmem_reason reason;
} bad_ranges[] = {
	{1, 0x10000, true, EINVAL, GMEM_REASON_RANGE_UNALIGNED},
	{0, 1, true, EINVAL, GMEM_REASON_RANGE_UNALIGNED},
	{0, 0, false, EINVAL, GMEM_REASON_RANGE_EMPTY},
	{4, 1, false, ERANGE, GMEM_REASON_MEMFD_BEYOND_END},
	{0, 5, false, ERANGE, GMEM_REASON_MEMFD_BEYOND_END},
	{3, 2, false, ERANGE, GMEM_REASON_MEMFD_BEYOND_END},
	{-UINT64_C(1), 2, false, EOVERFLOW, GMEM_REASON_RANGE_WRAPS},
};
#define BAD_RANGES (int)(sizeof(bad_ranges) / sizeof(bad_ranges[0]))

START_TEST(pages_are_whole_and_in_the_file)
{
	struct gmem_memfd *memfd;
	struct world world;
	uint64_t offset, size;
	char *map;

	if (!world_open(&world, 0))
		return;
	memfd = world_memfd(&world, 4);
	map = raw_map(gmem_memfd_get_fd(memfd), 0, 4 * world.page);
	memset(map, 1, 4 * world.page);
	offset = bad_ranges[_i].offset * (bad_ranges[_i].bytes ? 1 : world.page);
	size = bad_ranges[_i].size * (bad_ranges[_i].bytes ? 1 : world.page);
	ck_assert_int_eq(gmem_memfd_allocate(memfd, offset, size), -bad_ranges[_i].error);
	ck_assert_int_eq(gmem_error_get_reason(), bad_ranges[_i].reason);
	ck_assert_int_eq(gmem_memfd_discard(memfd, offset, size), -bad_ranges[_i].error);
	ck_assert_int_eq(gmem_error_get_reason(), bad_ranges[_i].reason);
	ck_assert_uint_eq(host_count_resident(map, 4 * world.page), 4);
	munmap(map, 4 * world.page);
	gmem_memfd_close(memfd);
	world_close(&world);
}
END_TEST

/* ---- Taken up ---- */

START_TEST(open_fd_finds_size_and_flags)
{
	uint64_t flags = (uint64_t)_i;
	struct gmem_memfd *memfd;
	struct world world;
	int fd, fds;
	void *map;

	if (!world_open_guest_memfd(&world))
		return;
	fd = raw_memfd(world.fd, 4 * world.page, flags);
	ck_assert_int_ge(fd, 0);
	fds = host_count_fds();
	assert_ok(gmem_memfd_open_fd(world.vm, fd, &memfd));
	ck_assert_int_eq(host_count_fds(), fds + 1);
	ck_assert_int_ne(gmem_memfd_get_fd(memfd), fd);
	ck_assert_int_eq(fcntl(gmem_memfd_get_fd(memfd), F_GETFD), FD_CLOEXEC);
	ck_assert_int_eq(fcntl(fd, F_GETFD), 0);
	/* A file that cannot be mapped shows nothing of INIT_SHARED. */
	ck_assert_uint_eq(gmem_memfd_get_flags(memfd), flags & GMEM_MEMFD_MMAP ? flags : 0);
	ck_assert_uint_eq(gmem_memfd_get_size(memfd), 4 * world.page);
	ck_assert_int_eq(gmem_memfd_get_kind(memfd), GMEM_MEMFD_KIND_GUEST);
	ck_assert_int_eq(host_count_maps("kvm-gmem"), 0);
	if (flags == MEMFD_SHARED) {
		/* Finding out may have made the last page, and no other. */
		map = raw_map(fd, 0, 3 * world.page);
		ck_assert_uint_eq(host_count_resident(map, 3 * world.page), 0);
		munmap(map, 3 * world.page);
	}
	gmem_memfd_close(memfd);
	ck_assert_int_eq(fcntl(fd, F_GETFD), 0);
	close(fd);
	world_close(&world);
}
END_TEST

START_TEST(open_fd_can_be_bound_to_its_vm)
{
	struct gmem_memfd *memfd;
	struct gmem_slot *slot;
	struct world world;
	uint32_t value;
	char *map;
	int fd;

	if (!world_open_guest_memfd(&world))
		return;
	fd = raw_memfd(world.fd, world.page, RAW_SHARED);
	map = raw_map(fd, 0, world.page);
	memcpy(map, "abcd", 4);
	assert_ok(gmem_memfd_open_fd(world.vm, fd, &memfd));
	close(fd);
	slot = world_slot(&world, SLOT(.gpa = GPA, .size = world.page, .memfd = memfd));
	assert_ok(gmem_vm_load_u32(world.vm, 0, GPA, &value));
	ck_assert_int_eq(memcmp(&value, "abcd", 4), 0);
	munmap(map, world.page);
	gmem_slot_close(slot);
	gmem_memfd_close(memfd);
	world_close(&world);
}
END_TEST

static void send_fd(int to, int fd)
{
	union {
		struct cmsghdr header;
		char space[CMSG_SPACE(sizeof(int))];
	} control = {.header = {.cmsg_len = CMSG_LEN(sizeof(int)),
				.cmsg_level = SOL_SOCKET,
				.cmsg_type = SCM_RIGHTS}};
	char byte = 0;
	struct iovec iov = {&byte, 1};
	struct msghdr message = {.msg_iov = &iov,
				 .msg_iovlen = 1,
				 .msg_control = &control,
				 .msg_controllen = sizeof(control)};

	memcpy(CMSG_DATA(&control.header), &fd, sizeof(fd));
	ck_assert_int_eq(sendmsg(to, &message, 0), 1);
}

static int receive_fd(int from)
{
	union {
		struct cmsghdr header;
		char space[CMSG_SPACE(sizeof(int))];
	} control;
	char byte;
	struct iovec iov = {&byte, 1};
	struct msghdr message = {.msg_iov = &iov,
				 .msg_iovlen = 1,
				 .msg_control = &control,
				 .msg_controllen = sizeof(control)};
	int fd;

	ck_assert_int_eq((int)recvmsg(from, &message, MSG_CMSG_CLOEXEC), 1);
	memcpy(&fd, CMSG_DATA(&control.header), sizeof(fd));
	return fd;
}

/* Another process with a VM of its own: it writes, and hands its guest_memfd on. */
static int make_and_send(void *data)
{
	const int *sockets = data;
	struct gmem_memfd *memfd;
	struct gmem_vm *vm;
	char *map;

	CHILD_CHECK(gmem_vm_open(VM_UNDER_TEST(), &vm) == 0);
	CHILD_CHECK(gmem_memfd_create(vm, MEMFD(.size = 4 * raw_page(), .flags = MEMFD_SHARED),
				      &memfd) == 0);
	map = mmap(NULL, raw_page(), PROT_READ | PROT_WRITE, MAP_SHARED, gmem_memfd_get_fd(memfd),
		   0);
	CHILD_CHECK(map != MAP_FAILED);
	memcpy(map, "sent", 5);
	send_fd(sockets[1], gmem_memfd_get_fd(memfd));
	return 0;
}

START_TEST(received_one_can_be_mapped_and_not_bound)
{
	struct gmem_memfd *memfd;
	struct gmem_slot *slot;
	struct gmem_map *map;
	struct world world;
	int sockets[2], fd;
	char *addr;

	if (!world_open_guest_memfd(&world))
		return;
	ck_assert_int_eq(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, sockets), 0);
	ck_assert_int_eq(host_run_child(make_and_send, sockets), 0);
	fd = receive_fd(sockets[0]);
	assert_ok(gmem_memfd_open_fd(NULL, fd, &memfd));
	close(fd);
	close(sockets[0]);
	close(sockets[1]);
	map = world_map(memfd);
	addr = gmem_map_get_addr(map);
	ck_assert_str_eq(addr, "sent");
	assert_ok(gmem_memfd_discard(memfd, 0, world.page));
	ck_assert_int_eq(addr[0], 0);
	assert_ok(gmem_memfd_allocate(memfd, 0, 4 * world.page));
	assert_fails(gmem_slot_create(world.vm,
				      SLOT(.gpa = GPA, .size = world.page, .memfd = memfd), &slot),
		     EXDEV, MEMFD_FOREIGN);
	/* Its pages can be an ordinary slot's. */
	slot = world_slot(&world, SLOT(.gpa = GPA, .size = 4 * world.page, .map = map));
	assert_ok(gmem_vm_write(world.vm, 0, GPA, "mine", 5));
	ck_assert_str_eq(addr, "mine");
	gmem_slot_close(slot);
	gmem_map_close(map);
	gmem_memfd_close(memfd);
	world_close(&world);
}
END_TEST

START_TEST(open_fd_refuses_what_is_no_guest_memfd)
{
	int others[9], pipes[2];
	struct gmem_memfd *memfd;
	struct traces before;
	struct world world;

	if (!world_open(&world, 0))
		return;
	ck_assert_int_eq(pipe2(pipes, O_CLOEXEC), 0);
	others[0] = memfd_create("plain", MFD_CLOEXEC);
	ck_assert_int_eq(ftruncate(others[0], (off_t)world.page), 0);
	others[1] = eventfd(0, EFD_CLOEXEC);
	others[2] = pipes[0];
	others[3] = open("/proc/self/exe", O_RDONLY | O_CLOEXEC);
	others[4] = open(harness_kvm_device(), O_RDWR | O_CLOEXEC);
	others[5] = raw_vm();
	others[6] = ioctl(others[5], KVM_CREATE_VCPU, 0UL);
	others[7] = epoll_create1(EPOLL_CLOEXEC);
	others[8] = open("/", O_RDONLY | O_CLOEXEC);
	before = traces_get();
	for (size_t i = 0; i < 9; i++) {
		ck_assert_int_ge(others[i], 0);
		assert_fails(gmem_memfd_open_fd(world.vm, others[i], &memfd), EINVAL,
			     FD_NOT_GUEST_MEMFD);
		assert_fails(gmem_memfd_open_fd(NULL, others[i], &memfd), EINVAL,
			     FD_NOT_GUEST_MEMFD);
		ck_assert_ptr_null(memfd);
	}
	traces_assert_same(&before);
	for (size_t i = 0; i < 9; i++)
		close(others[i]);
	close(pipes[1]);
	assert_fails(gmem_memfd_open_fd(world.vm, others[0], &memfd), EBADF, FD_INVALID);
	assert_fails(gmem_memfd_open_fd(NULL, -1, &memfd), EBADF, FD_INVALID);
	world_close(&world);
}
END_TEST

/* ---- NUMA ---- */

/* Whether the kernel keeps a policy in the file, found out without the library. */
static int policy_holds(const struct world *world)
{
	int fd = world->fallback ? memfd_create("plain", MFD_CLOEXEC)
				 : raw_memfd(world->fd, world->page, RAW_SHARED);
	int holds = host_policy_holds(fd);

	close(fd);
	return holds;
}

START_TEST(numa_policy_holds_or_is_refused_by_name)
{
	const struct gmem_memfd_opts *opts;
	const uint64_t nodes[2] = {1, 0};
	struct gmem_memfd *memfd;
	struct traces before;
	struct world world;
	void *map;
	int holds;

	if (!world_open(&world, 0))
		return;
	holds = policy_holds(&world);
	if (holds < 0)
		SKIP_WORLD(&world, "this kernel has no memory policies");
	if (!world.fallback)
		harness_note("%s", holds ? "holds" : "ignored by the kernel");
	before = traces_get();
	opts = MEMFD(.size = 4 * world.page, .flags = MEMFD_SHARED, .fallback = world.fallback,
		     .numa_mode = GMEM_NUMA_BIND, .numa_nodes = nodes, .numa_words = 2);
	if (!holds) {
		assert_fails(gmem_memfd_create(world.vm, opts, &memfd), EOPNOTSUPP, NUMA_IGNORED);
		ck_assert_ptr_null(memfd);
	} else {
		assert_ok(gmem_memfd_create(world.vm, opts, &memfd));
		map = raw_map(gmem_memfd_get_fd(memfd), 0, 4 * world.page);
		ck_assert_int_eq(host_get_policy((char *)map + 3 * world.page), POLICY_BIND);
		ck_assert_uint_eq(host_count_resident(map, 4 * world.page), 0);
		munmap(map, 4 * world.page);
		gmem_memfd_close(memfd);
	}
	traces_assert_same(&before);
	world_close(&world);
}
END_TEST

START_TEST(numa_policy_with_impossible_nodes_is_refused)
{
	const uint64_t nodes[16] = {[15] = UINT64_C(1) << 63};
	struct gmem_memfd *memfd;
	struct traces before;
	struct world world;
	int r;

	if (!world_open(&world, 0))
		return;
	if (policy_holds(&world) < 0)
		SKIP_WORLD(&world, "this kernel has no memory policies");
	before = traces_get();
	r = gmem_memfd_create(world.vm,
			      MEMFD(.size = world.page, .flags = MEMFD_SHARED,
				    .fallback = world.fallback, .numa_mode = GMEM_NUMA_BIND,
				    .numa_nodes = nodes, .numa_words = 16),
			      &memfd);
	ck_assert_int_lt(r, 0);
	ck_assert_int_eq(gmem_error_get_reason(), GMEM_REASON_NUMA_REFUSED);
	assert_fails(gmem_memfd_create(world.vm,
				       MEMFD(.size = world.page, .numa_mode = GMEM_NUMA_BIND,
					     .numa_nodes = nodes, .numa_words = 1),
				       &memfd),
		     EINVAL, NUMA_NEEDS_MMAP);
	traces_assert_same(&before);
	world_close(&world);
}
END_TEST

/* ---- Fallback ---- */

START_TEST(fallback_is_not_taken_where_guest_memfd_is)
{
	struct gmem_memfd *memfd;
	struct world world;

	if (!world_open_guest_memfd(&world))
		return;
	assert_ok(gmem_memfd_create(
		world.vm,
		MEMFD(.size = world.page, .flags = MEMFD_SHARED, .fallback = GMEM_FALLBACK_MEMFD),
		&memfd));
	ck_assert_int_eq(gmem_memfd_get_kind(memfd), GMEM_MEMFD_KIND_GUEST);
	ck_assert_int_lt(fcntl(gmem_memfd_get_fd(memfd), F_GET_SEALS), 0);
	gmem_memfd_close(memfd);
	world_close(&world);
}
END_TEST

START_TEST(fallback_is_a_sealed_memfd)
{
	const int seals = F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL;
	struct gmem_memfd *memfd;
	struct gmem_slot *slot;
	struct world world;
	uint32_t value;

	if (!world_open(&world, 0))
		return;
	if (!world.fallback)
		SKIP_WORLD(&world, "this VM has guest_memfd, so nothing stands in for it");
	memfd = world_memfd(&world, 1);
	ck_assert_int_eq(fcntl(gmem_memfd_get_fd(memfd), F_GET_SEALS), seals);
	slot = world_slot(&world, SLOT(.gpa = GPA, .size = world.page, .memfd = memfd));
	assert_ok(gmem_vm_store_u32(world.vm, 0, GPA, 3));
	ck_assert_int_eq((int)pread(gmem_memfd_get_fd(memfd), &value, 4, 0), 4);
	ck_assert_uint_eq(value, 3);
	gmem_slot_close(slot);
	gmem_memfd_close(memfd);
	world_close(&world);
}
END_TEST

static TCase *make_case(Suite *suite, const char *name)
{
	TCase *tcase = tcase_create(name);

	suite_add_tcase(suite, tcase);
	return tcase;
}

static void add_creation(TCase *tcase)
{
	tcase_add_loop_test(tcase, create_takes_exactly_the_flags_of_the_vm, 0, 64);
	tcase_add_loop_test(tcase, create_gives_the_kernel_these_flags, 0, 4);
	tcase_add_test(tcase, create_takes_whole_pages_up_to_a_signed_size);
	tcase_add_test(tcase, create_makes_one_descriptor_with_close_on_exec);
	tcase_add_test(tcase, create_says_that_descriptors_have_run_out);
	tcase_add_test(tcase, numa_policy_holds_or_is_refused_by_name);
	tcase_add_test(tcase, numa_policy_with_impossible_nodes_is_refused);
	tcase_add_test(tcase, fallback_is_not_taken_where_guest_memfd_is);
	tcase_add_test(tcase, fallback_is_a_sealed_memfd);
}

static void add_use(TCase *tcase)
{
	tcase_add_test(tcase, allocate_makes_pages_that_read_zero);
	tcase_add_test(tcase, allocate_goes_on_after_signals);
	tcase_add_test(tcase, discard_drops_just_its_pages);
	tcase_add_loop_test(tcase, pages_are_whole_and_in_the_file, 0, BAD_RANGES);
	tcase_add_loop_test(tcase, open_fd_finds_size_and_flags, 0, 4);
	tcase_add_test(tcase, open_fd_can_be_bound_to_its_vm);
	tcase_add_test(tcase, received_one_can_be_mapped_and_not_bound);
	tcase_add_test(tcase, open_fd_refuses_what_is_no_guest_memfd);
}

int main(void)
{
	Suite *suite = suite_create("memfd");

	add_creation(make_case(suite, "creation"));
	add_use(make_case(suite, "use"));
	return harness_run(suite);
}
