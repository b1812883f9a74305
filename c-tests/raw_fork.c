/* A child made by a raw system call (fork, clone, clone3 without CLONE_VM) has its parent's sockets, as vsftpd's sessions
 * do: it serves the accepted connection, and the parent's close of its copies ends nothing. */
#include "t.h"

#include <linux/sched.h>
#include <sys/syscall.h>

static pid_t by_clone(void)
{
    return (pid_t)syscall(SYS_clone, SIGCHLD, 0, 0, 0, 0);
}

static pid_t by_clone3(void)
{
    struct clone_args arguments = {.exit_signal = SIGCHLD};
    return (pid_t)syscall(SYS_clone3, &arguments, sizeof arguments);
}

#ifdef SYS_fork
static pid_t by_fork(void)
{
    return (pid_t)syscall(SYS_fork);
}
#endif

static int serve(int listener, int fd)
{
    char data[4];
    close(listener);
    MUST(dup2(fd, 0));
    MUST(dup2(fd, 1));
    close(fd);
    if (t_read_all(0, data, 4) != 4 || write(1, data, 4) != 4)
        return 1;
    return 0;
}

static void check(int control, const char *name, pid_t (*make)(void))
{
    char data[1];
    int port, listener = t_listener(0, &port);
    MUST(peer_tell(control, "CONNECT %s %d", T_LOCAL, port));
    int fd = accept(listener, NULL, NULL);
    CHECK(strncmp(peer_answer(control), "OK", 2) == 0, name);
    pid_t child = make();
    if (child == 0)
        _exit(serve(listener, fd));
    CHECK(child > 0, "the child is there");
    close(fd);
    close(listener);
    CHECK_EQ(peer_ask(control, "SEND 4"), 4, "the peer writes after the parent closed");
    CHECK_EQ(peer_ask(control, "RECV 4"), 4, "the child answers");
    int status = -1;
    waitpid(child, &status, 0);
    CHECK_EQ(status, 0, "and ends");
    CHECK_EQ(peer_ask(control, "WAITEND"), 0, "its end is a FIN");
    peer_tell(control, "CLOSE");
    peer_answer(control);
    CHECK_ERRNO(read(fd, data, 1), EBADF, "the parent's number is closed");
}

int main(void)
{
    t_begin();
    int control = MUST(peer_connect(PORT_COMMAND));
    check(control, "clone: the peer has connected", by_clone);
    check(control, "clone3: the peer has connected", by_clone3);
#ifdef SYS_fork
    check(control, "fork: the peer has connected", by_fork);
#endif
    struct clone_args nonsense = {.exit_signal = 12345};
    CHECK_ERRNO((int)syscall(SYS_clone3, &nonsense, sizeof nonsense), EINVAL, "a clone3 that fails: EINVAL");
    CHECK_ERRNO((int)syscall(SYS_clone3, (void *)8, sizeof nonsense), EFAULT, "no arguments: EFAULT");
    return t_end();
}
