/* Processes that lock themselves in with seccomp and go on with the sockets that they have: strict mode (read, write
 * and exit only), a filter as of a network daemon's child (read, write, poll, close, shutdown), and a filter that
 * forbids nothing of interest, under which everything goes on as before. */
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <stddef.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>

#include "t.h"

/* Ends as strict mode allows; no signal handler, no library. */
static void leave(int status)
{
    syscall(SYS_exit, status);
}

/* The echo of four bytes; 0 when it came back as it was. */
static int echo(int fd)
{
    char data[4] = "abcd";
    size_t got = 0;
    if (write(fd, data, 4) != 4)
        return 1;
    memset(data, 0, sizeof data);
    while (got < 4) {
        ssize_t more = read(fd, data + got, 4 - got);
        if (more <= 0)
            return 2;
        got += (size_t)more;
    }
    return memcmp(data, "abcd", 4) == 0 ? 0 : 3;
}

static void strict(int fd)
{
    alarm(0);
    if (prctl(PR_SET_SECCOMP, SECCOMP_MODE_STRICT) != 0)
        leave(10);
    leave(echo(fd));
}

/* Allows the calls of a list, or all but them. */
static int filter(const int *calls, int count, unsigned listed, unsigned others, bool by_number)
{
    struct sock_filter code[64];
    int length = 0;
    code[length++] = (struct sock_filter)BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr));
    for (int i = 0; i < count; i++)
        code[length++] = (struct sock_filter)BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, (unsigned)calls[i],
                                                      (unsigned char)(count - i), 0);
    code[length++] = (struct sock_filter)BPF_STMT(BPF_RET | BPF_K, others);
    code[length++] = (struct sock_filter)BPF_STMT(BPF_RET | BPF_K, listed);
    struct sock_fprog program = {(unsigned short)length, code};
    if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0)
        return -1;
    if (by_number)
        return (int)syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, 0, &program);
    return prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program);
}

static void daemons_child(int fd, bool by_number)
{
    static const int allowed[] = {SYS_read, SYS_write, SYS_poll, SYS_ppoll, SYS_close, SYS_shutdown, SYS_exit,
                                  SYS_exit_group};
    char byte;
    if (filter(allowed, sizeof allowed / sizeof *allowed, SECCOMP_RET_ALLOW, SECCOMP_RET_KILL_PROCESS, by_number) != 0)
        leave(10);
    if (echo(fd) != 0)
        leave(11);
    struct pollfd entry = {fd, POLLIN | POLLOUT, 0};
    if (poll(&entry, 1, 5000) != 1 || entry.revents != POLLOUT)
        leave(12);
    if (shutdown(fd, SHUT_WR) != 0 || poll(&entry, 1, 5000) != 1 || read(fd, &byte, 1) != 0)
        leave(13);
    leave(close(fd) == 0 ? 0 : 14);
}

/* As sshd's child: no new descriptors, files or processes, another user, then the filter. */
static void limited_child(int fd)
{
    const struct rlimit none = {0, 0}, one = {1, 1};
    if (setrlimit(RLIMIT_FSIZE, &none) != 0 || setrlimit(RLIMIT_NOFILE, &one) != 0)
        leave(20);
    /* The second read has to sleep. */
    struct pollfd idle = {fd, POLLIN, 0};
    if (echo(fd) != 0 || poll(&idle, 1, 10) != 0 || echo(fd) != 0)
        leave(21);
    daemons_child(fd, false);
}

static int status_of(pid_t child)
{
    int status = -1;
    return waitpid(child, &status, 0) == child && WIFEXITED(status) ? WEXITSTATUS(status) : 1000 + (status & 0x7f);
}

/* Reads four bytes under the filter, says so, and ends a moment later without looking at what has come meanwhile. */
static void short_reader(int fd, int told)
{
    static const int allowed[] = {SYS_read, SYS_write, SYS_poll, SYS_close, SYS_exit, SYS_exit_group};
    char data[4];
    if (filter(allowed, sizeof allowed / sizeof *allowed, SECCOMP_RET_ALLOW, SECCOMP_RET_KILL_PROCESS, false) != 0)
        leave(10);
    if (read(fd, data, 4) != 4 || write(told, data, 1) != 1 || poll(NULL, 0, 300) != 0)
        leave(11);
    leave(0);
}

/* As sshd's parent: what comes when the child has read its last is the parent's. */
static void left_to_the_parent(void)
{
    enum { REST = 20000 };
    static unsigned char data[REST];
    int control, told[2], fd = peer_pair(&control);
    MUST(pipe(told));
    pid_t child = MUST(fork());
    if (child == 0)
        short_reader(fd, told[1]);
    CHECK_EQ(peer_ask(control, "SEND 4"), 4, "four bytes to a child under a filter");
    CHECK_EQ(read(told[0], data, 1), 1, "are read there");
    CHECK_EQ(peer_ask(control, "SEND %d", REST), REST, "more comes, which it does not read");
    CHECK_EQ(status_of(child), 0, "and it ends");
    CHECK_EQ(t_read_all(fd, data, REST), REST, "its parent reads all of it");
    CHECK_EQ(pattern_match(data, REST, 4), REST, "from the start");
    close(fd);
    close(control);
}

static void harmless(int fd)
{
    static const int forbidden[] = {SYS_ptrace, SYS_reboot, SYS_init_module};
    if (filter(forbidden, 3, SECCOMP_RET_KILL_PROCESS, SECCOMP_RET_ALLOW, true) != 0)
        _exit(10);
    int other = peer_connect(PORT_ECHO);
    _exit(other < 0 ? 11 : echo(fd) != 0 ? 12 : echo(other) != 0 ? 13 : t_local_port(fd) == 0 ? 14 : 0);
}

int main(void)
{
    t_begin();
    int fd = MUST(peer_connect(PORT_ECHO));
    pid_t child = MUST(fork());
    if (child == 0)
        strict(fd);
    CHECK_EQ(status_of(child), 0, "strict mode: the inherited connection works on");
    CHECK_EQ(echo(fd), 0, "and here too, afterwards");
    child = MUST(fork());
    if (child == 0)
        daemons_child(fd, false);
    close(fd);
    CHECK_EQ(status_of(child), 0, "a filter by prctl: write, read, poll, shutdown, end, close");
    for (int i = 0; i < 2; i++) {
        fd = MUST(peer_connect(PORT_ECHO));
        child = MUST(fork());
        if (child == 0)
            daemons_child(fd, true);
        close(fd);
        CHECK_EQ(status_of(child), 0, "a filter by seccomp, time %d", i);
    }
    fd = MUST(peer_connect(PORT_ECHO));
    child = MUST(fork());
    if (child == 0)
        limited_child(fd);
    CHECK_EQ(status_of(child), 0, "with no descriptor left to make, the connection works before and after the filter");
    close(fd);
    left_to_the_parent();
    fd = MUST(peer_connect(PORT_ECHO));
    child = MUST(fork());
    if (child == 0)
        harmless(fd);
    CHECK_EQ(status_of(child), 0, "a filter that forbids nothing of interest: old and new sockets work");
    CHECK_EQ(echo(fd), 0, "and its parent's");
    return t_end();
}
