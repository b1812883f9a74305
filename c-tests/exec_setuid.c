/* A member that changes its user after fork keeps using its sockets, makes new ones and forks again. Needs root at the
 * start, as the laboratory does. */
#include <grp.h>

#include "services.h"
#include "t.h"

#define NOBODY 65534

static int echo(int fd, const char *word)
{
    char answer[16] = "";
    size_t length = strlen(word);
    if (t_write_all(fd, word, length) != (ssize_t)length || t_read_all(fd, answer, length) != (ssize_t)length)
        return 1;
    return memcmp(word, answer, length) == 0 ? 0 : 2;
}

static int status_of(pid_t child)
{
    int status = -1;
    return waitpid(child, &status, 0) == child && WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

static int as_nobody(int fd)
{
    t_arm_deadline(T_DEADLINE_SECONDS);
    if (setgroups(0, NULL) != 0 || setgid(NOBODY) != 0 || setuid(NOBODY) != 0 || setuid(0) == 0)
        return 10;
    if (echo(fd, "nobody") != 0)
        return 11;
    int other = t_tcp(0);
    if (other < 0 || t_connect(other, T_PEER, PORT_ECHO) != 0 || echo(other, "own") != 0)
        return 12;
    int port, listener = t_tcp(0);
    if (t_bind(listener, T_LOCAL, 0) != 0 || listen(listener, 4) != 0 || (port = t_local_port(listener)) == 0)
        return 13;
    pid_t child = fork();
    if (child == 0) {
        t_arm_deadline(T_DEADLINE_SECONDS);
        close(listener);
        _exit(echo(fd, "child") == 0 && echo(other, "both") == 0 ? 0 : 14);
    }
    int status = status_of(child);
    if (status != 0)
        return status;
    return echo(other, "after") == 0 && close(other) == 0 && close(listener) == 0 ? 0 : 15;
}

int main(void)
{
    t_begin();
    t_arm_deadline(T_DEADLINE_SECONDS);
    int fd = MUST(peer_connect(PORT_ECHO));
    CHECK_EQ(echo(fd, "root"), 0, "before");
    pid_t child = fork();
    if (child == 0)
        _exit(as_nobody(fd));
    CHECK_EQ(status_of(child), 0, "a child that is nobody uses old and new sockets, and so does its own child");
    CHECK_EQ(echo(fd, "root again"), 0, "afterwards");
    int again = MUST(peer_connect(PORT_ECHO));
    CHECK_EQ(echo(again, "new"), 0, "and a new connection");
    return t_end();
}
