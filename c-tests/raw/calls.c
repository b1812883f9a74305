/* The system calls of a test program, made by assembler and not by libc: linked into a C test (make RAW=1), these
 * functions are its own, so that no hook of a preloaded library sees its calls. x86-64. */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdarg.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <sys/select.h>
#include <sys/sendfile.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static long enter(long number, long a, long b, long c, long d, long e, long f)
{
    long result;
    register long fourth asm("r10") = d;
    register long fifth asm("r8") = e;
    register long sixth asm("r9") = f;
    asm volatile("syscall"
                 : "=a"(result)
                 : "a"(number), "D"(a), "S"(b), "d"(c), "r"(fourth), "r"(fifth), "r"(sixth)
                 : "rcx", "r11", "memory");
    if (result < 0 && result > -4096) {
        errno = (int)-result;
        return -1;
    }
    return result;
}

#define L(x) ((long)(x))
#define CALL0(n) enter(SYS_##n, 0, 0, 0, 0, 0, 0)
#define CALL1(n, a) enter(SYS_##n, L(a), 0, 0, 0, 0, 0)
#define CALL2(n, a, b) enter(SYS_##n, L(a), L(b), 0, 0, 0, 0)
#define CALL3(n, a, b, c) enter(SYS_##n, L(a), L(b), L(c), 0, 0, 0)
#define CALL4(n, a, b, c, d) enter(SYS_##n, L(a), L(b), L(c), L(d), 0, 0)
#define CALL5(n, a, b, c, d, e) enter(SYS_##n, L(a), L(b), L(c), L(d), L(e), 0)
#define CALL6(n, a, b, c, d, e, f) enter(SYS_##n, L(a), L(b), L(c), L(d), L(e), L(f))

/* Sockets. */
int socket(int family, int kind, int protocol) { return (int)CALL3(socket, family, kind, protocol); }
int bind(int fd, const struct sockaddr *at, socklen_t length) { return (int)CALL3(bind, fd, at, length); }
int connect(int fd, const struct sockaddr *to, socklen_t length) { return (int)CALL3(connect, fd, to, length); }
int listen(int fd, int backlog) { return (int)CALL2(listen, fd, backlog); }
int accept(int fd, struct sockaddr *from, socklen_t *length) { return (int)CALL3(accept, fd, from, length); }
int accept4(int fd, struct sockaddr *from, socklen_t *length, int flags)
{
    return (int)CALL4(accept4, fd, from, length, flags);
}
int shutdown(int fd, int how) { return (int)CALL2(shutdown, fd, how); }
int getsockname(int fd, struct sockaddr *at, socklen_t *length) { return (int)CALL3(getsockname, fd, at, length); }
int getpeername(int fd, struct sockaddr *at, socklen_t *length) { return (int)CALL3(getpeername, fd, at, length); }
int getsockopt(int fd, int level, int name, void *value, socklen_t *length)
{
    return (int)CALL5(getsockopt, fd, level, name, value, length);
}
int setsockopt(int fd, int level, int name, const void *value, socklen_t length)
{
    return (int)CALL5(setsockopt, fd, level, name, value, length);
}

/* Data. */
ssize_t read(int fd, void *buffer, size_t size) { return CALL3(read, fd, buffer, size); }
ssize_t write(int fd, const void *buffer, size_t size) { return CALL3(write, fd, buffer, size); }
ssize_t readv(int fd, const struct iovec *list, int count) { return CALL3(readv, fd, list, count); }
ssize_t writev(int fd, const struct iovec *list, int count) { return CALL3(writev, fd, list, count); }
ssize_t recvfrom(int fd, void *buffer, size_t size, int flags, struct sockaddr *from, socklen_t *length)
{
    return CALL6(recvfrom, fd, buffer, size, flags, from, length);
}
ssize_t recv(int fd, void *buffer, size_t size, int flags) { return CALL6(recvfrom, fd, buffer, size, flags, 0, 0); }
ssize_t sendto(int fd, const void *buffer, size_t size, int flags, const struct sockaddr *to, socklen_t length)
{
    return CALL6(sendto, fd, buffer, size, flags, to, length);
}
ssize_t send(int fd, const void *buffer, size_t size, int flags)
{
    return CALL6(sendto, fd, buffer, size, flags, 0, 0);
}
ssize_t sendmsg(int fd, const struct msghdr *message, int flags) { return CALL3(sendmsg, fd, message, flags); }
ssize_t recvmsg(int fd, struct msghdr *message, int flags) { return CALL3(recvmsg, fd, message, flags); }
int sendmmsg(int fd, struct mmsghdr *list, unsigned count, int flags)
{
    return (int)CALL4(sendmmsg, fd, list, count, flags);
}
int recvmmsg(int fd, struct mmsghdr *list, unsigned count, int flags, struct timespec *timeout)
{
    return (int)CALL5(recvmmsg, fd, list, count, flags, timeout);
}
ssize_t sendfile(int to, int from, off_t *offset, size_t count) { return CALL4(sendfile, to, from, offset, count); }
ssize_t splice(int from, off64_t *from_offset, int to, off64_t *to_offset, size_t count, unsigned flags)
{
    return CALL6(splice, from, from_offset, to, to_offset, count, flags);
}

/* Readiness. The kernel writes what is left of the time back, and libc's callers do not expect that of a timespec. */
int poll(struct pollfd *set, nfds_t count, int timeout) { return (int)CALL3(poll, set, count, timeout); }
int ppoll(struct pollfd *set, nfds_t count, const struct timespec *timeout, const sigset_t *mask)
{
    struct timespec copy, *used = NULL;
    if (timeout) {
        copy = *timeout;
        used = &copy;
    }
    return (int)CALL5(ppoll, set, count, used, mask, 8);
}
int select(int count, fd_set *read_set, fd_set *write_set, fd_set *except_set, struct timeval *timeout)
{
    return (int)CALL5(select, count, read_set, write_set, except_set, timeout);
}
int pselect(int count, fd_set *read_set, fd_set *write_set, fd_set *except_set, const struct timespec *timeout,
            const sigset_t *mask)
{
    struct timespec copy, *used = NULL;
    const struct {
        const sigset_t *set;
        size_t size;
    } sized = {mask, 8};
    if (timeout) {
        copy = *timeout;
        used = &copy;
    }
    return (int)CALL6(pselect6, count, read_set, write_set, except_set, used, &sized);
}
int epoll_create(int size) { return (int)CALL1(epoll_create, size); }
int epoll_create1(int flags) { return (int)CALL1(epoll_create1, flags); }
int epoll_ctl(int set, int operation, int fd, struct epoll_event *event)
{
    return (int)CALL4(epoll_ctl, set, operation, fd, event);
}
int epoll_wait(int set, struct epoll_event *events, int room, int timeout)
{
    return (int)CALL4(epoll_wait, set, events, room, timeout);
}
int epoll_pwait(int set, struct epoll_event *events, int room, int timeout, const sigset_t *mask)
{
    return (int)CALL6(epoll_pwait, set, events, room, timeout, mask, 8);
}

/* Descriptors. */
int close(int fd) { return (int)CALL1(close, fd); }
int close_range(unsigned first, unsigned last, int flags) { return (int)CALL3(close_range, first, last, flags); }
int dup(int fd) { return (int)CALL1(dup, fd); }
int dup2(int fd, int target) { return (int)CALL2(dup2, fd, target); }
int dup3(int fd, int target, int flags) { return (int)CALL3(dup3, fd, target, flags); }
int fcntl(int fd, int command, ...)
{
    va_list list;
    va_start(list, command);
    long argument = va_arg(list, long);
    va_end(list);
    return (int)CALL3(fcntl, fd, command, argument);
}
int fcntl64(int fd, int command, ...) __attribute__((alias("fcntl")));
int ioctl(int fd, unsigned long request, ...)
{
    va_list list;
    va_start(list, request);
    long argument = va_arg(list, long);
    va_end(list);
    return (int)CALL3(ioctl, fd, request, argument);
}

/* Processes and signals. */
pid_t fork(void) { return (pid_t)CALL0(fork); }
int execve(const char *file, char *const arguments[], char *const environment[])
{
    return (int)CALL3(execve, file, arguments, environment);
}
int execv(const char *file, char *const arguments[]) { return execve(file, arguments, environ); }
int sigprocmask(int how, const sigset_t *set, sigset_t *old)
{
    if (old)
        memset(old, 0, sizeof *old);
    return (int)CALL4(rt_sigprocmask, how, set, old, 8);
}
int prctl(int option, ...)
{
    va_list list;
    va_start(list, option);
    long b = va_arg(list, long), c = va_arg(list, long), d = va_arg(list, long), e = va_arg(list, long);
    va_end(list);
    return (int)CALL5(prctl, option, b, c, d, e);
}
long syscall(long number, ...)
{
    va_list list;
    va_start(list, number);
    long a = va_arg(list, long), b = va_arg(list, long), c = va_arg(list, long), d = va_arg(list, long),
         e = va_arg(list, long), f = va_arg(list, long);
    va_end(list);
    return enter(number, a, b, c, d, e, f);
}

/* A handler's way back is its own too: the kernel enters it by the restorer, which calls by number. */
asm(".text\n"
    "raw_restorer:\n"
    "    mov $15, %eax\n"
    "    syscall\n");
void raw_restorer(void);

int sigaction(int number, const struct sigaction *action, struct sigaction *old)
{
    struct {
        void *handler;
        unsigned long flags;
        void *restorer;
        unsigned long mask;
    } wanted = {0}, before = {0};
    if (action) {
        wanted.handler = (void *)action->sa_sigaction;
        wanted.flags = (unsigned long)action->sa_flags | 0x04000000;
        wanted.restorer = (void *)raw_restorer;
        memcpy(&wanted.mask, &action->sa_mask, sizeof wanted.mask);
    }
    int result = (int)CALL4(rt_sigaction, number, action ? &wanted : NULL, old ? &before : NULL, 8);
    if (result == 0 && old) {
        memset(old, 0, sizeof *old);
        old->sa_sigaction = (void (*)(int, siginfo_t *, void *))before.handler;
        old->sa_flags = (int)(before.flags & ~0x04000000ul);
        memcpy(&old->sa_mask, &before.mask, sizeof before.mask);
    }
    return result;
}
