/* A descriptor that is closed by a raw system call, past any library: its number is no socket any more. */
#include <sys/epoll.h>
#include <sys/select.h>

#include "t.h"

/* close() that nothing but the kernel sees. */
static long raw_close(int fd)
{
#if defined(__x86_64__)
    long result;
    __asm__ volatile("syscall" : "=a"(result) : "a"(3), "D"((long)fd) : "rcx", "r11", "memory");
    return result;
#elif defined(__aarch64__)
    register long x0 __asm__("x0") = fd;
    register long x8 __asm__("x8") = 57;
    __asm__ volatile("svc 0" : "+r"(x0) : "r"(x8) : "memory");
    return x0;
#else
    return close(fd);
#endif
}

int main(void)
{
    int control, pipes[2];
    char byte;
    struct timeval soon = {0, 50000};

    t_begin();
    int fd = peer_pair(&control);
    CHECK_EQ(raw_close(fd), 0, "a raw close");
    struct pollfd entry = {fd, POLLIN, 0};
    CHECK_EQ(poll(&entry, 1, 50), 1, "poll says at once");
    CHECK_EQ(entry.revents, POLLNVAL, "that the number is not open");
    CHECK_EQ(peer_ask(control, "WAITEND"), 0, "the peer sees the end");
    close(control);

    fd = peer_pair(&control);
    CHECK_EQ(raw_close(fd), 0, "a raw close");
    fd_set set;
    FD_ZERO(&set);
    FD_SET(fd, &set);
    CHECK_ERRNO(select(fd + 1, &set, NULL, NULL, &soon), EBADF, "select: EBADF");
    close(control);

    fd = peer_pair(&control);
    int watch = MUST(epoll_create1(0));
    struct epoll_event event = {.events = EPOLLIN, .data.fd = fd}, got[4];
    MUST(epoll_ctl(watch, EPOLL_CTL_ADD, fd, &event));
    CHECK_EQ(raw_close(fd), 0, "a raw close");
    CHECK_EQ(epoll_wait(watch, got, 4, 50), 0, "epoll has nothing");
    CHECK_EQ(peer_ask(control, "WAITEND"), 0, "the peer sees the end");
    CHECK_EQ(epoll_wait(watch, got, 4, 50), 0, "epoll still has nothing");
    close(watch);
    close(control);

    /* The number is used again at once, by something that no library has seen either. */
    fd = peer_pair(&control);
    MUST(pipe(pipes));
    raw_close(fd);
    CHECK_EQ(dup(pipes[0]), fd, "the number is used again");
    MUST(write(pipes[1], "p", 1));
    entry.fd = fd;
    CHECK_EQ(poll(&entry, 1, T_PATIENCE_MS), 1, "poll asks what is there now");
    CHECK_EQ(entry.revents, POLLIN, "and it is readable");
    CHECK_EQ(read(fd, &byte, 1), 1, "read reads it");
    close(fd);

    /* Numbers beyond the kernel's table take no part in select; below it they must be open. */
    fd = MUST(t_tcp(0));
    FD_ZERO(&set);
    FD_SET(fd, &set);
    FD_SET(1000, &set);
    soon.tv_usec = 50000;
    CHECK_EQ(select(1024, &set, NULL, NULL, &soon), 1, "select with a number beyond the table: the fresh socket");
    CHECK(FD_ISSET(fd, &set), "alone");
    FD_SET(50, &set);
    CHECK_ERRNO(select(1024, &set, NULL, NULL, &soon), EBADF, "and with a closed one within: EBADF");
    return t_end();
}
