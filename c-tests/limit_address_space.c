/* RLIMIT_AS set while sockets are open holds for the program's own memory: what fits goes on working, what does not
 * fit is refused, and the limit reads as it was set. */
#include "t.h"

#include <sys/mman.h>
#include <sys/resource.h>

#define MEGABYTE (1UL << 20)

static void *take(size_t megabytes)
{
    return mmap(NULL, megabytes * MEGABYTE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
}

int main(void)
{
    t_begin();
    char data[4];
    struct rlimit limit = {0};
    int fd = MUST(peer_connect(PORT_ECHO));
    CHECK_EQ(getrlimit(RLIMIT_AS, &limit), 0, "getrlimit");
    limit.rlim_cur = 200 * MEGABYTE;
    CHECK_EQ(setrlimit(RLIMIT_AS, &limit), 0, "setrlimit of 200 MB");
    CHECK_EQ(write(fd, "echo", 4), 4, "write goes on");
    CHECK_EQ(t_read_all(fd, data, 4), 4, "and read");
    void *some = take(100);
    CHECK(some != MAP_FAILED, "100 MB can be had");
    CHECK(take(150) == MAP_FAILED && errno == ENOMEM, "150 MB more: ENOMEM");
    struct rlimit got = {0};
    CHECK_EQ(getrlimit(RLIMIT_AS, &got), 0, "getrlimit again");
    CHECK(got.rlim_cur == limit.rlim_cur && got.rlim_max == limit.rlim_max, "says what was set");
    limit.rlim_cur = 400 * MEGABYTE;
    CHECK_EQ(prlimit(0, RLIMIT_AS, &limit, &got), 0, "prlimit of 400 MB");
    CHECK_EQ(got.rlim_cur, 200 * MEGABYTE, "tells the limit before");
    CHECK(take(150) != MAP_FAILED, "150 MB more can be had");
    int status = -1;
    pid_t child = MUST(fork());
    if (child == 0)
        _exit(getrlimit(RLIMIT_AS, &got) == 0 && got.rlim_cur == limit.rlim_cur && take(300) == MAP_FAILED ? 0 : 1);
    waitpid(child, &status, 0);
    CHECK_EQ(status, 0, "a child has the same limit");
    CHECK_ERRNO(setrlimit(RLIMIT_AS, &(struct rlimit){2, 1}), EINVAL, "soft above hard: EINVAL");
    CHECK_ERRNO(setrlimit(RLIMIT_AS, (void *)8), EFAULT, "no memory there: EFAULT");
    MUST(peer_connect(PORT_ECHO));
    return t_end();
}
